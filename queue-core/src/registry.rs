use std::{collections::BTreeMap, fmt, sync::Arc};

use futures::future::BoxFuture;

use crate::{Error, ErrorKind, JobStore, MemoryStore, Result};

/// Opens the store that a URL names.
pub type Opener =
    Arc<dyn Fn(String) -> BoxFuture<'static, Result<Arc<dyn JobStore>>> + Send + Sync>;

/// Which URL schemes open which stores.
///
/// A value, not a global: nothing is registered before `main`. `memory:` is always there.
///
/// ```
/// use std::sync::Arc;
/// use queue_core::{JobStore, MemoryStore, StoreRegistry};
///
/// # futures::executor::block_on(async {
/// let mut registry = StoreRegistry::new();
/// registry.register("scratch", |_url| async {
///     Ok(Arc::new(MemoryStore::new()) as Arc<dyn JobStore>)
/// });
/// let store = registry.connect("scratch:anything").await?;
/// assert_eq!(store.info().name, "memory");
///
/// let error = registry.connect("mysql://db/jobs").await.unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "configuration: unknown URL scheme \"mysql\"; known are memory:, scratch:"
/// );
/// # queue_core::Result::<()>::Ok(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct StoreRegistry {
    open: BTreeMap<String, Opener>,
    switched_off: BTreeMap<String, &'static str>,
}

impl StoreRegistry {
    /// A registry that knows `memory:`.
    pub fn new() -> Self {
        let mut registry = StoreRegistry { open: BTreeMap::new(), switched_off: BTreeMap::new() };
        registry.register("memory", |_| async {
            Ok(Arc::new(MemoryStore::new()) as Arc<dyn JobStore>)
        });
        registry
    }

    /// Opens URLs of this scheme with `open`, which is given the whole URL, scheme and percent-encoding included
    /// ([`percent_decode`]). A scheme registered before is replaced.
    pub fn register<F, Fut>(&mut self, scheme: impl Into<String>, open: F) -> &mut Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Arc<dyn JobStore>>> + Send + 'static,
    {
        let scheme = scheme.into();
        self.switched_off.remove(&scheme);
        self.open.insert(scheme, Arc::new(move |url| Box::pin(open(url))));
        self
    }

    /// Says which feature would open URLs of this scheme.
    pub fn switched_off(&mut self, scheme: impl Into<String>, feature: &'static str) -> &mut Self {
        let scheme = scheme.into();
        if !self.open.contains_key(&scheme) {
            self.switched_off.insert(scheme, feature);
        }
        self
    }

    /// Opens the store that the URL names.
    ///
    /// # Errors
    /// `Config` for a URL without a scheme, an unknown scheme (the message names the known ones)
    /// or one whose feature is switched off (the message names the feature); otherwise what the store says.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn JobStore>> {
        let config = |message| Err(Error::new(ErrorKind::Config, message));
        let known = || {
            let schemes: Vec<_> = self.open.keys().map(|scheme| format!("{scheme}:")).collect();
            schemes.join(", ")
        };
        // The URL itself is not repeated: it may hold a password.
        let Some((scheme, _)) = url.split_once(':') else {
            return config(format!("a store URL begins with a scheme; known are {}", known()));
        };
        if let Some(open) = self.open.get(scheme) {
            return open(url.to_owned()).await;
        }
        match self.switched_off.get(scheme) {
            Some(feature) => config(format!(
                "URLs that begin with {scheme}: need the feature `{feature}`, which is switched off in this build"
            )),
            None => config(format!("unknown URL scheme {scheme:?}; known are {}", known())),
        }
    }
}

impl Default for StoreRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StoreRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreRegistry")
            .field("open", &self.open.keys())
            .field("switched_off", &self.switched_off)
            .finish()
    }
}
/// A part of a URL without its percent-encoding (<https://www.rfc-editor.org/rfc/rfc3986#section-2.1>); `None` where a percent sign is
/// not followed by two hexadecimal digits, or where the bytes are not UTF-8.
///
/// ```
/// assert_eq!(queue_core::percent_decode("a%20b").as_deref(), Some("a b"));
/// assert_eq!(queue_core::percent_decode("50%"), None);
/// ```
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        // Two hexadecimal digits make at most 255.
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(bytes).ok()
}
