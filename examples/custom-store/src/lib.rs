//! A store for `queue` in one file of [redb](https://docs.rs/redb), an embedded key-value store.
//!
//! An example of a store by a third party: it uses nothing but the public interface of `queue-core`. Durable: what is
//! acknowledged has been synced to the medium. One process opens a file at a time; its workers share clones of the store.
//!
//! | module | what it is |
//! |---|---|
//! | `tables` | what is stored, and the indexes |
//! | `document` | rows as JSON |
//! | `work` | a write transaction: rows and indexes change together |
//! | `write`, `claim`, `facts`, `read` | the operations |
//! | `writer` | one thread that writes, with group commit |
//! | `medium` | opening, and errors |

mod claim;
mod document;
mod facts;
mod medium;
mod merge;
mod read;
mod store;
mod tables;
mod url;
mod work;
mod write;
mod writer;

pub use store::RedbStore;
pub use url::register;

/// How the store calls itself, and its URL scheme.
const NAME: &str = "redb";

/// Compiles the examples of the guide for authors of stores.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-a-store.md")]
struct Guide;

/// Compiles the examples of the page of this package.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;
