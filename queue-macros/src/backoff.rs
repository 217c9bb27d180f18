use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, LitStr, Result, meta::ParseNestedMeta};

/// Reads `backoff(exponential = "30s", cap = "1h", jitter = "full")`.
pub(crate) fn read(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let mut base = None;
    let mut more = TokenStream::new();
    meta.parse_nested_meta(|meta| {
        let said = || meta.value()?.parse::<LitStr>();
        if meta.path.is_ident("fixed") || meta.path.is_ident("exponential") {
            let (growth, delay) = (meta.path.get_ident().cloned(), duration(&said()?)?);
            match base.replace(quote!(::queue::Backoff::#growth(#delay))) {
                None => Ok(()),
                Some(_) => Err(meta.error("a backoff is either fixed or exponential")),
            }
        } else if meta.path.is_ident("cap") {
            let cap = duration(&said()?)?;
            more.extend(quote!(.capped(#cap)));
            Ok(())
        } else if meta.path.is_ident("jitter") {
            let jitter = jitter(&said()?)?;
            more.extend(quote!(.jitter(#jitter)));
            Ok(())
        } else {
            Err(meta.error("unknown key; the keys of backoff are fixed, exponential, cap, jitter"))
        }
    })?;
    match base {
        Some(base) => Ok(quote!(#base #more)),
        None => {
            Err(meta.error("a backoff needs its delay: fixed = \"..\" or exponential = \"..\""))
        }
    }
}

fn jitter(said: &LitStr) -> Result<TokenStream> {
    match &*said.value() {
        "full" => Ok(quote!(::queue::Jitter::Full)),
        "equal" => Ok(quote!(::queue::Jitter::Equal)),
        "none" => Ok(quote!(::queue::Jitter::None)),
        _ => Err(Error::new(said.span(), "jitter is \"full\", \"equal\" or \"none\"")),
    }
}

/// A whole number with its unit.
fn duration(said: &LitStr) -> Result<TokenStream> {
    let text = said.value();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit.trim_start() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let product = millis.and_then(|millis: u64| number.parse::<u64>().ok()?.checked_mul(millis));
    match product {
        Some(millis) => Ok(quote!(::core::time::Duration::from_millis(#millis))),
        None => Err(Error::new(
            said.span(),
            "a duration is a whole number and its unit: \"500ms\", \"30s\", \"5m\", \"2h\", \"1d\"",
        )),
    }
}
