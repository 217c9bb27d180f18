//! One connection through a proxy.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};

use super::{
    Fault,
    proxy::{Weather, Wires},
};

/// How long a server must be quiet for its answer to count as given.
const QUIET: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What becomes of a connection in the weather of the moment.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Sound,
    /// After so many requests more, one does not arrive.
    LoseRequest(usize),
    /// After so many requests more, the answer to one does not arrive.
    LoseAnswer(usize),
    /// The request has gone through.
    AnswerIsDue,
    /// After so many bytes it ends.
    Cut(usize),
    /// It ends when the silence does.
    Forgotten,
}

/// Why a connection ends before its peers end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
    /// The client is let go first: the server is to do what it was asked.
    Answered,
}

/// What to do with bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pass,
    /// So many of them, then nothing more.
    PassAndClose(usize),
    End(End),
}

struct Line<'w> {
    wires: &'w Wires,
    /// The weather when it was opened: older resets are not its own.
    born: Weather,
    course: Mutex<Course>,
}

struct Course {
    gust: u64,
    fate: Fate,
    spoke_last: Side,
}

pub(super) async fn carry(wires: &Arc<Wires>, client: TcpStream, server: TcpStream) {
    let born = *wires.weather.borrow();
    // As one that was opened in the fault, of which it may get through its opening.
    let course = Course { gust: born.gust, fate: fate(wires, born, 1), spoke_last: Side::Server };
    let line = Line { wires, born, course: Mutex::new(course) };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let ended = tokio::try_join!(
        line.pump(Side::Client, &mut from_client, &mut to_server),
        line.pump(Side::Server, &mut from_server, &mut to_client),
    );
    match ended {
        Ok(_) | Err(End::Closed) => {}
        Err(End::Reset) => {
            for stream in [from_client.reunite(to_client), from_server.reunite(to_server)] {
                // One that cannot be set so is closed.
                let _ = stream.map(|stream| stream.set_zero_linger());
            }
        }
        Err(End::Answered) => {
            drop((from_client, to_client));
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(Ok(1..)) = timeout(QUIET, from_server.read(&mut buffer)).await {}
        }
    }
}

/// What a fault makes of a connection that has had so many turns at least.
fn fate(wires: &Wires, weather: Weather, spared: usize) -> Fate {
    let mut dice = wires.dice();
    // A driver may take a turn of its own before the request.
    let turns = spared + dice.below(4);
    match weather.fault {
        Some(Fault::RequestLost) => Fate::LoseRequest(turns),
        Some(Fault::AnswerLost) => Fate::LoseAnswer(turns),
        Some(Fault::Cut) => Fate::Cut(dice.below(700) + spared * dice.below(4_000)),
        Some(Fault::Silent) if dice.below(2) == 0 => Fate::Forgotten,
        _ => Fate::Sound,
    }
}

impl Line<'_> {
    async fn pump(
        &self,
        side: Side,
        from: &mut OwnedReadHalf,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), End> {
        let mut weather = self.wires.weather.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            self.wait_for_voice(&mut weather).await?;
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.map_err(|_| End::Closed)?,
                changed = weather.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(End::Closed),
                },
            };
            let mut now = self.wait_for_voice(&mut weather).await?;
            if now.fault == Some(Fault::Slow) {
                let late = 2 + self.wires.dice().next_u64() % 20;
                tokio::time::sleep(Duration::from_millis(late)).await;
                now = self.wait_for_voice(&mut weather).await?;
            }
            if read == 0 {
                // The other direction may have something to say yet.
                return to.shutdown().await.map_err(|_| End::Closed);
            }
            let (passed, close) = match self.step(now, side, read) {
                Step::Pass => (read, false),
                Step::PassAndClose(some) => (some, true),
                Step::End(end) => return Err(end),
            };
            let sent = to.write_all(&buffer[..passed]).await;
            if sent.is_err() || close {
                return Err(End::Closed);
            }
        }
    }

    /// Waits until anything is to be heard.
    async fn wait_for_voice(&self, weather: &mut watch::Receiver<Weather>) -> Result<Weather, End> {
        loop {
            let now = *weather.borrow_and_update();
            if now.closings > self.born.closings {
                return Err(End::Closed);
            }
            if now.resets > self.born.resets {
                return Err(End::Reset);
            }
            let fate = self.meet(now);
            match now.fault {
                Some(Fault::Silent) => weather.changed().await.map_err(|_| End::Closed)?,
                _ if matches!(fate, Fate::Forgotten) => return Err(End::Closed),
                _ => return Ok(now),
            }
        }
    }

    /// What becomes of the connection in this weather; decided once for each.
    fn meet(&self, now: Weather) -> Fate {
        let mut course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
        if course.gust < now.gust {
            course.gust = now.gust;
            // A connection that a silence has met is remembered as such when the silence is over.
            if now.fault.is_some() || !matches!(course.fate, Fate::Forgotten) {
                course.fate = fate(self.wires, now, 0);
            }
        }
        course.fate
    }

    fn step(&self, now: Weather, side: Side, bytes: usize) -> Step {
        self.meet(now);
        let mut course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
        let is_turn = side == Side::Client && course.spoke_last == Side::Server;
        course.spoke_last = side;
        if is_turn {
            self.wires.trips.fetch_add(1, Ordering::SeqCst);
        }
        match (&mut course.fate, side) {
            (Fate::LoseRequest(0), Side::Client) if is_turn => return Step::End(End::Closed),
            (Fate::LoseRequest(turns), Side::Client) if is_turn => *turns -= 1,
            (Fate::LoseAnswer(0), Side::Client) if is_turn => course.fate = Fate::AnswerIsDue,
            (Fate::LoseAnswer(turns), Side::Client) if is_turn => *turns -= 1,
            (Fate::AnswerIsDue, Side::Server) => return Step::End(End::Answered),
            (Fate::Cut(left), _) if *left <= bytes => return Step::PassAndClose(*left),
            (Fate::Cut(left), _) => *left -= bytes,
            _ => {}
        }
        Step::Pass
    }
}
