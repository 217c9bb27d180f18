//! The threads that read, each with a connection of its own.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
    thread::{self, JoinHandle},
};

use queue_core::Result;
use rusqlite::Connection;

use crate::{SqliteOptions, connect};

/// A read that waits for its turn. It is given the connection, or the reason why there is none.
pub(crate) type Read = Box<dyn FnOnce(Result<&mut Connection>) + Send>;

/// Starts the threads. They end when the sending side of the channel is gone.
pub(crate) fn start(
    options: &SqliteOptions,
    reads: Receiver<Read>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let reads = Arc::new(Mutex::new(reads));
    (0..options.readers.get())
        .map(|_| {
            let (options, reads) = (options.clone(), reads.clone());
            thread::Builder::new()
                .name("queue-sqlite-read".to_owned())
                .spawn(move || serve(&options, &reads))
        })
        .collect()
}

/// Opens the connection when the first read comes, and again after it could not be opened.
fn serve(options: &SqliteOptions, reads: &Mutex<Receiver<Read>>) {
    let mut open: Option<Connection> = None;
    loop {
        // The one thread that waits holds the lock; nothing can panic under it.
        let next = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = next else { return };
        if open.is_none() {
            match connect::open_reader(options) {
                Ok(db) => open = Some(db),
                Err(error) => {
                    read(Err(error));
                    continue;
                }
            }
        }
        if let Some(db) = &mut open {
            // As in the writer: the caller is told by the answer that never comes, and the
            // connection, whatever state it is in, is replaced.
            if panic::catch_unwind(AssertUnwindSafe(|| read(Ok(db)))).is_err() {
                open = None;
            }
        }
    }
}
