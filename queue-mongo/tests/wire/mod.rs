//! A relay between a store and its server that reads every command and may change it on its way.
#![allow(dead_code)] // each test file uses a part of it

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::FutureExt;
use mongodb::bson::{Bson, Document};
use queue_core::async_trait;
use queue_mongo::mongodb;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinHandle,
};

/// The opcode of every command since MongoDB 3.6.
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;

/// Whether a relay of this process gave up on a command.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Fails where a relay has panicked: to its store that is a lost connection, and no reason to trust the test.
pub fn assert_sound() {
    assert!(!BROKEN.load(Ordering::SeqCst), "a relay gave up on a command; it says above why");
}

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    On,
    /// The connection ends, and the server never sees it.
    CutBefore,
    /// The server carries it out, and the connection ends without its answer.
    CutAfter,
}

/// What is done to a command before the server sees it.
#[async_trait]
pub trait OnItsWay: Send + Sync + 'static {
    async fn pass(&self, command: &mut Document) -> Way;
}

/// A relay that ends with this value.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens, as a URL that keeps the driver from going round it.
    pub url: String,
    listening: JoinHandle<()>,
}

impl Relay {
    /// Listens before the server that this URL names.
    pub async fn before(server: &str, on_its_way: Arc<dyn OnItsWay>) -> io::Result<Relay> {
        let server = server.trim_start_matches("mongodb://");
        let server = server.split('/').next().unwrap_or(server).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("mongodb://{}/?directConnection=true", listener.local_addr()?);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, on_its_way) = (server.clone(), on_its_way.clone());
                tokio::spawn(async move {
                    let relaying = relay(client, &server, &*on_its_way);
                    let ended = AssertUnwindSafe(relaying).catch_unwind().await;
                    BROKEN.fetch_or(ended.is_err(), Ordering::SeqCst);
                });
            }
        });
        Ok(Relay { url, listening })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// One connection, until either side ends it.
async fn relay(client: TcpStream, server: &str, on_its_way: &dyn OnItsWay) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let muted = AtomicBool::new(false);
    tokio::select! {
        ended = commands(from_client, to_server, on_its_way, &muted) => ended,
        ended = answers(from_server, &mut to_client, &muted) => ended,
    }
}

/// A driver sends no command before the last one's answer, so what comes after the muting is the answer that is to be lost.
async fn answers(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    muted: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 || muted.load(Ordering::SeqCst) {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}

async fn commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    on_its_way: &dyn OnItsWay,
    muted: &AtomicBool,
) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        from.read_exact(&mut header).await?;
        let mut rest = vec![0; length(&header).saturating_sub(HEADER)];
        from.read_exact(&mut rest).await?;
        if i32::from_le_bytes([header[12], header[13], header[14], header[15]]) == OP_MSG {
            let mut command = read(&rest);
            match on_its_way.pass(&mut command).await {
                Way::On => {}
                Way::CutBefore => return Ok(()),
                Way::CutAfter => muted.store(true, Ordering::SeqCst),
            }
            // The flags of the message, then the command as its only section.
            rest.truncate(4);
            rest.push(0);
            command.to_writer(&mut rest).map_err(io::Error::other)?;
            let length = i32::try_from(HEADER + rest.len()).map_err(io::Error::other)?;
            header[..4].copy_from_slice(&length.to_le_bytes());
        }
        to.write_all(&header).await?;
        to.write_all(&rest).await?;
    }
}

fn length(bytes: &[u8]) -> usize {
    let bytes: [u8; 4] = bytes[..4].try_into().unwrap();
    usize::try_from(i32::from_le_bytes(bytes)).unwrap()
}

/// The command of a message; what it sends beside its document is put into it.
fn read(message: &[u8]) -> Document {
    assert_eq!(message[0] & 1, 0, "the driver sends no checksums");
    let mut rest = &message[4..];
    let (mut command, mut beside) = (Document::new(), Document::new());
    while let Some((kind, section)) = rest.split_first() {
        let (section, left) = section.split_at(length(section));
        rest = left;
        if *kind == 0 {
            command = Document::from_reader(section).unwrap();
            continue;
        }
        let name = section[4..].split(|byte| *byte == 0).next().unwrap();
        let mut documents = &section[4 + name.len() + 1..];
        let mut found: Vec<Bson> = Vec::new();
        while !documents.is_empty() {
            found.push(Document::from_reader(&mut documents).unwrap().into());
        }
        beside.insert(str::from_utf8(name).unwrap(), found);
    }
    command.extend(beside);
    command
}
