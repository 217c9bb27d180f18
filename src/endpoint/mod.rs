//! Handlers that are HTTP endpoints.
//!
//! An [`Endpoint`] is sent a task's input as the JSON body of a POST, and answers with the output as JSON; so a task can be
//! handled by a program in any language that is not a worker. Nothing is sent anywhere unless an [`EndpointTask`] is
//! registered with the worker.
//!
//! The headers `queue-job-id`, `queue-task`, `queue-step` and `queue-attempt` say what the call is for, in printable ASCII
//! (what is not is written as `%XX`, byte by byte). A call may reach the endpoint more than once with the same headers, when
//! the worker was lost in between: job and step are what to recognise a repeat by.
//!
//! | the endpoint answers | the call |
//! |---|---|
//! | 2xx with JSON | has succeeded with this output; an empty body is `null` |
//! | 2xx with anything else | has failed, and may be retried |
//! | 408, 425, 429, 5xx, nothing in time, half an answer | has failed, and may be retried |
//! | any other 4xx, a redirect, too long a body | has failed for good |
//!
//! Whether and when it is retried is up to the task's budget and backoff; `Retry-After` is not heeded. Redirects are not
//! followed: an endpoint that has moved is to be set anew, and the input, with what authorises the call, goes nowhere else. Proxies
//! that the environment names are not used. Every call has a connection of its own: one that was kept could be closed by the
//! other side in the very moment of the call, and nobody could say then whether it was handled.

use std::{error::Error as StdError, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT},
};
use queue_core::{Payload, percent_decode};

use client::Client;

mod client;
mod error;
mod task;

pub use error::EndpointError;
pub use task::EndpointTask;

/// How long a call may take unless it is said: 60 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer may be unless it is said: 16 MiB, the largest payload of a store.
pub const DEFAULT_MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// How much of the answer is kept for messages, in bytes.
const SHOWN: usize = 2 * 1024;
/// The shortest name, path or query that is taken out of an answer, in bytes. A shorter one stands within other words, and an
/// answer without it could not be read any more; it is no secret that one could not guess.
const SHORTEST_HIDDEN: usize = 3;

/// An HTTP endpoint that handles a task.
#[derive(Clone)]
#[must_use]
pub struct Endpoint {
    uri: Uri,
    /// Scheme, host and port: what may be shown of the URL.
    origin: String,
    headers: HeaderMap,
    /// What authorises the call, and what of the URL may: in all its forms.
    secrets: Vec<String>,
    client: Client,
    timeout: Duration,
    max_output: usize,
}

impl Endpoint {
    /// The endpoint at this URL, `http://` or `https://`. Servers are trusted whom the system's certificates vouch for.
    ///
    /// A name and a password in the URL are sent as basic authorisation. Errors and logs show neither them nor path and query,
    /// which may hold secrets too: where an answer repeats one of them as a whole, encoded or not, `***` stands in its place. A
    /// name, path or query of one or two bytes stays, as does a part of a path or query.
    ///
    /// # Errors
    /// `Url` for anything else; `Certificates` for `https://` on a system without certificates.
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::Url("it cannot be read"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(EndpointError::Url("it needs a scheme and a host"));
        };
        let client = match scheme {
            "http" => Client::plain(),
            "https" => Client::tls()?,
            _ => return Err(EndpointError::Url("the schemes are http and https")),
        };
        let (user, place) = match authority.as_str().rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority.as_str()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let secrets = [path, uri.path(), uri.query().unwrap_or("")];
        let secrets = secrets.into_iter().flat_map(hidden).collect();
        let bare = Uri::builder().scheme(scheme).authority(place).path_and_query(path).build();
        let mut endpoint = Endpoint {
            origin: format!("{scheme}://{place}"),
            uri: bare.map_err(|_| EndpointError::Url("it cannot be read"))?,
            headers: HeaderMap::new(),
            secrets,
            client,
            timeout: DEFAULT_TIMEOUT,
            max_output: DEFAULT_MAX_OUTPUT,
        };
        if let Some(user) = user {
            endpoint = endpoint.authorised_by(user)?;
        }
        Ok(endpoint)
    }

    /// Sends what stands before the `@` of a URL as basic authorisation (RFC 7617).
    fn authorised_by(mut self, user: &str) -> Result<Self, EndpointError> {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text: &str| {
            percent_decode(text).ok_or(EndpointError::Url("its name or password is malformed"))
        };
        self.secrets.extend(hidden(name));
        let (name, plain) = (decoded(name)?, decoded(password)?);
        self.secrets.extend([password.to_owned(), plain.clone()]);
        self.header(
            "authorization",
            &format!("Basic {}", STANDARD.encode(format!("{name}:{plain}"))),
        )
    }

    /// Sends this header with every call. Its value is treated as a secret: errors do not show it.
    ///
    /// # Errors
    /// `Header` for a name or value that HTTP does not allow.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, EndpointError> {
        let fault = || EndpointError::Header { name: name.to_owned() };
        let header: HeaderName = name.parse().map_err(|_| fault())?;
        let mut content = HeaderValue::from_str(value).map_err(|_| fault())?;
        content.set_sensitive(true);
        if header == AUTHORIZATION {
            self.secrets.extend(value.split_whitespace().map(str::to_owned));
        }
        self.secrets.push(value.to_owned());
        self.headers.insert(header, content);
        Ok(self)
    }

    /// Gives up a call that takes longer than this; [`DEFAULT_TIMEOUT`] unless said.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads no more of an answer than so many bytes; [`DEFAULT_MAX_OUTPUT`] unless said.
    pub const fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Calls it once, and returns the body of the answer, byte for byte but for outer white space. `about` are headers of this call.
    ///
    /// If the future is dropped, the connection is closed; the endpoint may notice, and may have done its work all the same.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub async fn call(
        &self,
        input: &Payload,
        about: &[(&'static str, String)],
    ) -> Result<Payload, EndpointError> {
        let talk = async {
            let answer = self.client.send(self.request(input, about)).await;
            let answer = answer.map_err(|error| self.broken_off(&*error))?;
            self.read(answer).await
        };
        match tokio::time::timeout(self.timeout, talk).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(EndpointError::TimedOut { endpoint: self.origin.clone(), after: self.timeout })
            }
        }
    }

    fn request(&self, input: &Payload, about: &[(&'static str, String)]) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(input.as_str().to_owned())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("queue/", env!("CARGO_PKG_VERSION"))),
        );
        headers.extend(self.headers.clone());
        for (name, value) in about {
            if let Ok(value) = HeaderValue::from_str(&printable(value)) {
                headers.insert(*name, value);
            }
        }
        request
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Payload, EndpointError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), self.max_output).collect().await;
        let endpoint = || self.origin.clone();
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(match status.is_success() {
                    true => EndpointError::TooLong { endpoint: endpoint(), limit: self.max_output },
                    false => self.refused(status, b"too long to be shown"),
                });
            }
            Err(error) => return Err(self.broken_off(&*error)),
        };
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let text = std::str::from_utf8(&body).map_err(|error| EndpointError::NotJson {
            endpoint: endpoint(),
            fault: format!("not UTF-8 from byte {} on", error.valid_up_to() + 1),
        })?;
        if text.trim().is_empty() {
            return Ok(Payload::null());
        }
        Payload::from_text(text).map_err(|error| EndpointError::NotJson {
            endpoint: endpoint(),
            fault: format!("{}; the answer begins with {:?}", error.message(), self.shown(&body)),
        })
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> EndpointError {
        EndpointError::Status {
            endpoint: self.origin.clone(),
            status: status.as_u16(),
            body: self.shown(body),
        }
    }

    fn broken_off(&self, error: &(dyn StdError + 'static)) -> EndpointError {
        let mut causes = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        EndpointError::Transport {
            endpoint: self.origin.clone(),
            fault: self.without_secrets(causes.join(": ")),
        }
    }

    /// The beginning of an answer, without the secrets that the endpoint may have sent back.
    fn shown(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let text = self.without_secrets(text.trim().to_owned());
        let mut end = text.len().min(SHOWN);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let more = if end < text.len() { "..." } else { "" };
        format!("{}{more}", &text[..end])
    }

    fn without_secrets(&self, text: String) -> String {
        // The longest first: one may be a part of another.
        let mut secrets: Vec<&String> = self.secrets.iter().filter(|s| !s.is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The forms in which an answer may repeat a part of the URL.
fn hidden(part: &str) -> impl Iterator<Item = String> {
    let forms = [Some(part.to_owned()), percent_decode(part)].into_iter().flatten();
    forms.filter(|form| form.len() >= SHORTEST_HIDDEN)
}

/// Printable ASCII; anything else, the space and `%` as `%XX`.
fn printable(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("origin", &self.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
