use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Expr, ExprLit, Lit, LitBool, LitInt, LitStr, Path, Result, Type};

use crate::backoff;

/// What `#[task(..)]` says.
#[derive(Default)]
struct Attributes {
    name: Option<LitStr>,
    output: Option<Type>,
    queue: Option<LitStr>,
    retries: Option<LitInt>,
    backoff: Option<TokenStream>,
    restore: Option<Expr>,
    lane: Option<Path>,
    unique: Option<Path>,
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let attributes = read(input)?;
    let name = attributes.name.ok_or_else(|| {
        Error::new(
            input.ident.span(),
            "a task needs a name under which its jobs are stored: #[task(name = \"...\")]",
        )
    })?;
    check_name("task", &name)?;
    let output = attributes.output.map_or_else(|| quote!(()), |output| quote!(#output));
    let queue = attributes.queue.map(|queue| -> Result<_> {
        check_name("queue", &queue)?;
        Ok(quote!(.queue(
            // The name was checked when the task was compiled.
            #queue.parse().unwrap_or_default()
        )))
    });
    let queue = queue.transpose()?;
    let retries = attributes.retries.map(|retries| quote!(.retries(#retries)));
    let backoff = attributes.backoff.map(|backoff| quote!(.backoff(#backoff)));
    let restore = attributes.restore.map(|restore| {
        let restore = restore_of(&restore);
        quote!(.restore(#restore))
    });
    let lane = attributes.lane.map(|lane| key(&quote!(lane), &quote!(Lane), &lane));
    let unique = attributes.unique.map(|unique| key(&quote!(unique), &quote!(Unique), &unique));
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics ::queue::Task for #ident #ty_generics #where_clause {
            const NAME: &'static str = #name;
            type Output = #output;

            fn options() -> ::queue::TaskOptions {
                ::queue::TaskOptions::new() #queue #retries #backoff #restore
            }

            #lane
            #unique
        }
    })
}

/// The method of this name, which asks a function of the input. That may answer with an `Option` or not.
fn key(name: &TokenStream, answer: &TokenStream, function: &Path) -> TokenStream {
    quote! {
        fn #name(&self) -> ::core::option::Option<::queue::#answer> {
            ::core::convert::Into::into(#function(self))
        }
    }
}

fn read(input: &DeriveInput) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("task")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                attributes.name = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("output") {
                attributes.output = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("queue") {
                attributes.queue = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("retries") {
                attributes.retries = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("backoff") {
                attributes.backoff = Some(backoff::read(&meta)?);
            } else if meta.path.is_ident("restore") {
                attributes.restore = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("lane") {
                attributes.lane = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("unique") {
                attributes.unique = Some(meta.value()?.parse()?);
            } else {
                return Err(meta.error(
                    "unknown key; the keys are name, output, queue, retries, backoff, restore, lane, unique",
                ));
            }
            Ok(())
        })?;
    }
    Ok(attributes)
}

/// `true`, `false`, or the path of a function.
fn restore_of(said: &Expr) -> TokenStream {
    match said {
        Expr::Lit(ExprLit { lit: Lit::Bool(LitBool { value: true, .. }), .. }) => {
            quote!(::queue::Restore::Always)
        }
        Expr::Lit(ExprLit { lit: Lit::Bool(_), .. }) => quote!(::queue::Restore::Never),
        rule => quote!(::queue::Restore::when::<Self, _>(#rule)),
    }
}

fn check_name(what: &str, name: &LitStr) -> Result<()> {
    let value = name.value();
    let fits = (1..=256).contains(&value.len()) && !value.chars().any(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(Error::new(
            name.span(),
            format!("a {what} name has 1 to 256 bytes and no control characters"),
        )),
    }
}
