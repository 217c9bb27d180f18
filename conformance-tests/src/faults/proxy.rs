use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use queue_core::{Error, ErrorKind, Result, async_trait};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{Fault, Switch, line};
use crate::Rng;

/// What the wires of a proxy are like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) fault: Option<Fault>,
    /// Goes up whenever a fault begins.
    pub(super) gust: u64,
    /// How often all connections were reset.
    pub(super) resets: u64,
    /// How often all connections were closed.
    pub(super) closings: u64,
}

/// What the connections of a proxy share.
#[derive(Debug)]
pub(super) struct Wires {
    server: String,
    pub(super) weather: watch::Sender<Weather>,
    /// The latest gust by which the listener stands.
    settled: watch::Sender<u64>,
    pub(super) trips: AtomicU64,
    dice: Mutex<Rng>,
}

impl Wires {
    pub(super) fn dice(&self) -> MutexGuard<'_, Rng> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A relay in front of a server, which can break the connections that go through it.
///
/// It knows nothing of what is said there, so it serves for any protocol over TCP that takes turns: a request, then
/// its answer. It listens on a free port of 127.0.0.1 and works on the runtime on which it was started; its connections end
/// with it. Without a fault nothing is changed.
///
/// ```no_run
/// use conformance_tests::{Breakable, Fault, Fixture, Proxy};
/// # async fn open(at: std::net::SocketAddr) -> std::sync::Arc<dyn queue_core::JobStore> {
/// #     let _ = at;
/// #     std::sync::Arc::new(queue_core::MemoryStore::new())
/// # }
/// # async fn breakable(fault: Fault) -> Result<Breakable, Box<dyn std::error::Error>> {
/// let proxy = Proxy::start("127.0.0.1:5432", 1).await?;
/// let store = open(proxy.address()).await;
/// let switch = proxy.switch(fault);
/// Ok(Breakable::new(Fixture::new(store).with_guard(proxy), switch))
/// # }
/// ```
pub struct Proxy {
    wires: Arc<Wires>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("server", &self.wires.server)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// The faults that it can make.
    pub const FAULTS: [Fault; 7] = [
        Fault::Unreachable,
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::Cut,
        Fault::Reset,
        Fault::Silent,
        Fault::Slow,
    ];

    /// Listens in front of the server at this `host:port`. The seed decides which messages a fault meets.
    ///
    /// # Errors
    /// No port is to be had.
    pub async fn start(server: impl Into<String>, seed: u64) -> io::Result<Proxy> {
        // Bound and never listening: it keeps the port while connections are refused.
        let keeper = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = keeper.local_addr()?;
        let listener = listen(address)?;
        let wires = Arc::new(Wires {
            server: server.into(),
            weather: watch::channel(Weather::default()).0,
            settled: watch::channel(0).0,
            trips: AtomicU64::new(0),
            dice: Mutex::new(Rng::new(seed)),
        });
        let listening = tokio::spawn(accept(wires.clone(), keeper, listener));
        Ok(Proxy { wires, address, listening })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a client has begun to speak: at its first word on a connection, and at each first word after one of the
    /// server's. Where requests and answers take turns that is the number of requests.
    pub fn trips(&self) -> u64 {
        self.wires.trips.load(Ordering::SeqCst)
    }

    /// Counts trips, also after the proxy was given away.
    pub fn trip_counter(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let wires = self.wires.clone();
        move || wires.trips.load(Ordering::SeqCst)
    }

    /// Makes this fault on all connections: one of [`Proxy::FAULTS`].
    ///
    /// A connection that is open when [`RequestLost`](Fault::RequestLost) or [`AnswerLost`](Fault::AnswerLost) begins loses
    /// one of its next four requests; one that is opened later, one of the four after its first. After
    /// [`Silent`](Fault::Silent) what was held up arrives, or the connection ends. [`Cut`](Fault::Cut) ends every
    /// connection after some hundreds of bytes.
    pub fn switch(&self, fault: Fault) -> impl Switch + 'static {
        Breaker { wires: self.wires.clone(), fault }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

struct Breaker {
    wires: Arc<Wires>,
    fault: Fault,
}

impl Breaker {
    async fn set(&self, change: impl FnOnce(&mut Weather)) -> Result<()> {
        let mut gust = 0;
        self.wires.weather.send_modify(|weather| {
            weather.gust += 1;
            change(weather);
            gust = weather.gust;
        });
        let mut settled = self.wires.settled.subscribe();
        match settled.wait_for(|settled| *settled >= gust).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the proxy has ended")),
        }
    }
}

#[async_trait]
impl Switch for Breaker {
    async fn on(&self) -> Result<()> {
        let fault = self.fault;
        if !Proxy::FAULTS.contains(&fault) {
            let message = format!("a proxy cannot make a connection `{fault}`");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.set(|weather| {
            weather.fault = Some(fault);
            weather.resets += u64::from(fault == Fault::Reset);
            weather.closings += u64::from(fault == Fault::Unreachable);
        })
        .await
    }

    async fn off(&self) -> Result<()> {
        self.set(|weather| weather.fault = None).await
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(256)
}

/// Takes connections, unless they are to be refused. The connections end with it.
async fn accept(wires: Arc<Wires>, keeper: TcpSocket, first: TcpListener) {
    let mut weather = wires.weather.subscribe();
    let mut listener = Some(first);
    let mut lines = JoinSet::new();
    let Ok(address) = keeper.local_addr() else { return };
    loop {
        let now = *weather.borrow_and_update();
        if now.fault == Some(Fault::Unreachable) {
            listener = None;
            lines.shutdown().await;
        } else if listener.is_none() {
            // The port is still kept. Should it not be to be had all the same, whoever waits for it is told.
            listener = listen(address).ok();
            if listener.is_none() {
                return;
            }
        }
        wires.settled.send_replace(now.gust);
        let Some(open) = &listener else {
            if weather.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = weather.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                lines.spawn(carry(wires.clone(), client));
            },
            Some(_) = lines.join_next() => {}
        }
    }
}

async fn carry(wires: Arc<Wires>, client: TcpStream) {
    // A server that is not there ends the connection, which is what the client would see without a proxy but for the moment.
    if let Ok(server) = TcpStream::connect(&wires.server).await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        line::carry(&wires, client, server).await;
    }
}
