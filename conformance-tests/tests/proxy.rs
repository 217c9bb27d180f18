//! The proxy, in front of a server that answers every line with the same line.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use conformance_tests::{Fault, Proxy, Switch};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers lines, and counts those that it has heard.
struct Echo {
    address: SocketAddr,
    heard: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Echo {
    async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = heard.clone();
        let listening = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((peer, _)) = listener.accept().await {
                let counted = counted.clone();
                lines.spawn(async move {
                    let (from, mut to) = peer.into_split();
                    let mut from = BufReader::new(from);
                    let mut line = String::new();
                    while from.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                        counted.fetch_add(1, Ordering::SeqCst);
                        if to.write_all(line.as_bytes()).await.is_err() {
                            break;
                        }
                        line.clear();
                    }
                });
            }
        });
        Echo { address, heard, listening }
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

struct Talk(BufReader<TcpStream>);

impl Talk {
    async fn to(address: SocketAddr) -> io::Result<Talk> {
        Ok(Talk(BufReader::new(TcpStream::connect(address).await?)))
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).await
    }

    async fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    async fn ask(&mut self, line: &str) -> io::Result<String> {
        self.say(line).await?;
        let heard = tokio::time::timeout(DEADLINE, self.hear()).await;
        heard.expect("neither an answer nor an end")
    }
}

async fn scene() -> (Echo, Proxy) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.address.to_string(), 7).await.unwrap();
    (echo, proxy)
}

/// Asks until the connection ends; what it ended with, and how many answers came before.
async fn ask_until_it_ends(talk: &mut Talk) -> (usize, io::Error) {
    for answered in 0..1_000 {
        match talk.ask("again").await {
            Ok(answer) => assert_eq!(answer, "again"),
            Err(error) => return (answered, error),
        }
    }
    panic!("the fault met none of 1000 requests");
}

#[tokio::test]
async fn without_a_fault_everything_goes_through_and_each_request_is_a_trip() {
    let (echo, proxy) = scene().await;
    let mut talks =
        [Talk::to(proxy.address()).await.unwrap(), Talk::to(proxy.address()).await.unwrap()];
    for i in 0..10 {
        let long = "x".repeat(i * 20_000);
        assert_eq!(talks[i % 2].ask(&long).await.unwrap(), long);
    }
    assert_eq!((proxy.trips(), echo.heard()), (10, 10));
    // A half that is closed leaves the other open.
    talks[0].say("last").await.unwrap();
    talks[0].0.get_mut().shutdown().await.unwrap();
    assert_eq!(talks[0].hear().await.unwrap(), "last");
    assert_eq!(talks[0].hear().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_unreachable_server_refuses_and_is_found_again_at_the_same_address() {
    let (_echo, proxy) = scene().await;
    let switch = proxy.switch(Fault::Unreachable);
    for _ in 0..20 {
        let mut open = Talk::to(proxy.address()).await.unwrap();
        assert_eq!(open.ask("a").await.unwrap(), "a");
        switch.on().await.unwrap();
        assert!(open.ask("b").await.is_err());
        let refused = Talk::to(proxy.address()).await.err().expect("it should be refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        switch.off().await.unwrap();
        assert_eq!(Talk::to(proxy.address()).await.unwrap().ask("c").await.unwrap(), "c");
    }
}

#[tokio::test]
async fn a_lost_request_is_never_heard_and_a_lost_answer_always_is() {
    let (echo, proxy) = scene().await;
    for (fault, heard_more) in [(Fault::RequestLost, 0), (Fault::AnswerLost, 1)] {
        let switch = proxy.switch(fault);
        for _ in 0..20 {
            let mut talk = Talk::to(proxy.address()).await.unwrap();
            assert_eq!(talk.ask("before").await.unwrap(), "before");
            let before = echo.heard();
            switch.on().await.unwrap();
            let (answered, _) = ask_until_it_ends(&mut talk).await;
            assert_eq!(echo.heard(), before + answered + heard_more, "{fault}");
            switch.off().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_cut_ends_connections_in_the_middle_and_a_reset_at_once() {
    let (_echo, proxy) = scene().await;
    let mut in_the_middle = 0;
    for _ in 0..20 {
        let mut talk = Talk::to(proxy.address()).await.unwrap();
        talk.ask("before").await.unwrap();
        proxy.switch(Fault::Cut).on().await.unwrap();
        let (mut said, mut heard) = (0, String::new());
        while talk.say("0123456789").await.is_ok() && said < 1_000 {
            said += 1;
            heard.clear();
            if talk.0.read_line(&mut heard).await.is_ok_and(|read| read < 11) {
                break;
            }
        }
        in_the_middle += usize::from(!heard.is_empty() && heard.len() < 11);
        proxy.switch(Fault::Cut).off().await.unwrap();
    }
    assert!(in_the_middle > 0, "no answer was ever cut");

    let reset = proxy.switch(Fault::Reset);
    for _ in 0..5 {
        let mut talk = Talk::to(proxy.address()).await.unwrap();
        talk.ask("before").await.unwrap();
        reset.on().await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, talk.0.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        // An event: connections made after it are sound, though nobody has said that it is over.
        let mut next = Talk::to(proxy.address()).await.unwrap();
        assert_eq!(next.ask("after").await.unwrap(), "after");
        reset.off().await.unwrap();
    }
}

#[tokio::test]
async fn silence_holds_everything_up_and_then_it_arrives_or_the_connection_ends() {
    let (echo, proxy) = scene().await;
    let switch = proxy.switch(Fault::Silent);
    let (mut arrived, mut ended) = (0, 0);
    for _ in 0..20 {
        let mut talk = Talk::to(proxy.address()).await.unwrap();
        talk.ask("before").await.unwrap();
        switch.on().await.unwrap();
        let before = echo.heard();
        talk.say("held up").await.unwrap();
        // A connection may be made, but nothing is heard on it.
        let mut other = Talk::to(proxy.address()).await.unwrap();
        other.say("held up").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(5), other.hear()).await;
        assert!(heard.is_err() && echo.heard() == before);
        switch.off().await.unwrap();
        match tokio::time::timeout(DEADLINE, talk.hear()).await.unwrap() {
            Ok(line) => {
                assert_eq!(line, "held up");
                arrived += 1;
            }
            Err(_) => ended += 1,
        }
    }
    assert!(arrived > 0 && ended > 0, "{arrived} arrived, {ended} ended");
}

#[tokio::test]
async fn a_slow_server_answers_everything() {
    let (_echo, proxy) = scene().await;
    let switch = proxy.switch(Fault::Slow);
    switch.on().await.unwrap();
    let mut talk = Talk::to(proxy.address()).await.unwrap();
    for line in ["a", "b", "c"] {
        assert_eq!(talk.ask(line).await.unwrap(), line);
    }
    assert_eq!(proxy.trips(), 3);
}

#[tokio::test]
async fn nothing_of_a_dropped_proxy_is_left() {
    let (_echo, proxy) = scene().await;
    let address = proxy.address();
    let mut talk = Talk::to(address).await.unwrap();
    talk.ask("before").await.unwrap();
    drop(proxy);
    assert!(talk.ask("after").await.is_err());
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while TcpStream::connect(address).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it still listens");
        tokio::task::yield_now().await;
    }
    assert!(TcpListener::bind(address).await.is_ok(), "the port is free");
}

#[tokio::test]
async fn a_fault_that_is_not_one_of_connections_is_refused() {
    let (_echo, proxy) = scene().await;
    assert!(proxy.switch(Fault::Full).on().await.is_err());
}
