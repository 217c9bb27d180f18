//! The threads that read, each with a connection of its own.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
    thread::{self, JoinHandle},
};

use queue_core::Result;
use rusqlite::Connection;

use crate::{SqliteOptions, connect, store::no_thread};

/// A read that waits for its turn. It is given the connection, or the reason why there is none.
pub(crate) type Read = Box<dyn FnOnce(Result<&mut Connection>) + Send>;

/// Opens the connections and starts the threads. They end when the sending side of the channel is
/// gone. All connections are opened now, so that all see the file that the writer sees.
pub(crate) fn start(options: &SqliteOptions, reads: Receiver<Read>) -> Result<Vec<JoinHandle<()>>> {
    let reads = Arc::new(Mutex::new(reads));
    (0..options.readers.get())
        .map(|_| {
            let (options, reads) = (options.clone(), reads.clone());
            let db = connect::open_reader(&options)?;
            thread::Builder::new()
                .name("queue-sqlite-read".to_owned())
                .spawn(move || serve(db, &options, &reads))
                .map_err(no_thread)
        })
        .collect()
}

/// Opens the connection again after a read that panicked.
fn serve(db: Connection, options: &SqliteOptions, reads: &Mutex<Receiver<Read>>) {
    #[cfg(test)]
    crate::mutant_tests::apply(options.mutation.as_ref());
    connect::set_timeout(options.busy_timeout);
    let mut open = Some(db);
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
