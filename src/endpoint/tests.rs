use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
};

use futures::{FutureExt, future::BoxFuture};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use queue_core::{Job, JobError, MemoryStore, NewJob, State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
};

use super::*;
use crate::{Pass, Queue, TaskOptions, Worker};

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answer = BoxFuture<'static, Response<Full<Bytes>>>;

/// A server on a port of its own, until it is dropped.
struct Server {
    place: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers each request by its number, from 0, and its content.
    async fn start(answer: impl Fn(usize, Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (answer, log) = (answer.clone(), log.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, log) = (answer.clone(), log.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let seen = Seen {
                            method: head.method,
                            path: head.uri.path_and_query().unwrap().to_string(),
                            headers: head.headers,
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let number = {
                            let mut log = log.lock().unwrap();
                            log.push(seen.clone());
                            log.len() - 1
                        };
                        Ok::<_, Infallible>(answer(number, seen).await)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Server { place, seen, task }
    }

    /// Always answers so.
    async fn with(status: u16, body: &'static str) -> Self {
        Self::start(move |_, _| async move { response(status, body) }.boxed()).await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(&format!("http://{}/work?key=hidden", self.place)).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn call(endpoint: &Endpoint) -> Result<Payload, EndpointError> {
    endpoint.call(&Payload::from_text("[1]").unwrap(), &[]).await
}

/// A job of a task that this endpoint handles, to its end.
async fn run(endpoint: Endpoint, retries: u32, input: &str) -> Job {
    let queue = Queue::new(Arc::new(MemoryStore::new()) as Arc<dyn queue_core::JobStore>).unwrap();
    let task =
        EndpointTask::new("work", endpoint).with_options(TaskOptions::new().retries(retries));
    let worker = Worker::new(queue.clone()).dyn_task(task).build().unwrap();
    let job = NewJob::new("work", Payload::from_text(input).unwrap());
    let id = job.id;
    queue.insert(vec![job]).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    queue.job(id).await.unwrap().unwrap()
}

fn error(job: &Job) -> JobError {
    job.error.as_ref().unwrap().to().unwrap()
}

#[tokio::test]
async fn the_input_is_posted_with_what_it_is_for_and_the_answer_is_the_output() {
    let server = Server::with(200, "{\"b\": 1, \"a\": [ ] }\n").await;
    let endpoint = server.endpoint().header("x-tenant", "a").unwrap();
    let job = run(endpoint, 0, r#"{"z":1,"y":2}"#).await;
    assert_eq!(job.state, State::Completed);
    assert_eq!(job.output.as_ref().unwrap().as_str(), r#"{"b": 1, "a": [ ] }"#);
    let [seen] = &server.seen()[..] else { panic!("one call") };
    assert_eq!((&seen.method, seen.path.as_str()), (&Method::POST, "/work?key=hidden"));
    assert_eq!(seen.body, r#"{"z":1,"y":2}"#);
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("queue-job-id"), job.id.to_string());
    assert_eq!((seen.header("queue-task"), seen.header("queue-step")), ("work", "work"));
    assert_eq!((seen.header("queue-attempt"), seen.header("x-tenant")), ("1", "a"));
}

#[tokio::test]
async fn an_empty_answer_is_null_and_anything_but_json_is_an_error_that_may_pass() {
    for status in [200, 202, 204] {
        let server = Server::with(status, "").await;
        assert_eq!(call(&server.endpoint()).await.unwrap().as_str(), "null");
    }
    let server = Server::with(200, "<html>maintenance</html>").await;
    let error = call(&server.endpoint()).await.unwrap_err();
    assert!(error.to_string().contains("<html>maintenance"), "{error}");
    assert!(error.is_transient());
    let server = Server::start(|_, _| async { response(200, &b"\"\xff\""[..]) }.boxed()).await;
    let error = call(&server.endpoint()).await.unwrap_err();
    assert!(error.to_string().contains("not UTF-8 from byte 2 on"), "{error}");
}

#[tokio::test]
async fn the_status_says_whether_another_call_may_succeed() {
    for (statuses, transient) in [
        (&[408, 425, 429, 500, 502, 503, 599][..], true),
        (&[400, 401, 403, 404, 409, 410, 422, 499][..], false),
    ] {
        for &status in statuses {
            let server = Server::with(status, "because").await;
            let error = call(&server.endpoint()).await.unwrap_err();
            assert_eq!(error.is_transient(), transient, "{error}");
            let message = error.to_string();
            let expected = format!("http://{} answered with status {status}", server.place);
            assert_eq!(message, format!("{expected}; it said: because"));
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::with(200, "1").await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/", elsewhere.place);
        let server = Server::start(move |_, _| {
            let mut answer = response(status, "");
            answer.headers_mut().insert("location", location.parse().unwrap());
            async move { answer }.boxed()
        })
        .await;
        let error = call(&server.endpoint()).await.unwrap_err();
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
        assert!(!error.is_transient());
    }
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn trouble_of_the_server_is_retried_and_a_refusal_is_final() {
    let server = Server::start(|number, _| {
        async move { if number == 0 { response(500, "later") } else { response(200, "7") } }.boxed()
    })
    .await;
    let job = run(server.endpoint(), 3, "1").await;
    assert_eq!((job.state, job.attempt), (State::Completed, 2));
    let attempts: Vec<_> =
        server.seen().iter().map(|seen| seen.header("queue-attempt").to_owned()).collect();
    assert_eq!(attempts, ["1", "2"]);

    let server = Server::with(422, "no such customer").await;
    let job = run(server.endpoint(), 3, "1").await;
    assert_eq!((job.state, job.attempt, server.seen().len()), (State::Failed, 1, 1));
    let error = error(&job);
    assert_eq!((error.name.as_str(), error.is_final), ("endpoint-status", true));
    assert!(error.message.contains("no such customer"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let server = Server::start(|_, _| async { response(200, vec![b'1'; 5_000_000]) }.boxed()).await;
    let error = call(&server.endpoint().max_output(1_000)).await.unwrap_err();
    assert_eq!(
        error,
        EndpointError::TooLong { endpoint: format!("http://{}", server.place), limit: 1_000 }
    );
    assert!(!error.is_transient());
    assert!(call(&server.endpoint()).await.is_ok());
    let server = Server::start(|_, _| async { response(500, vec![b'x'; 5_000_000]) }.boxed()).await;
    let error = call(&server.endpoint().max_output(1_000)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().len() < 3_000, "{error}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up() {
    let server = Server::start(|_, _| pending().boxed()).await;
    let endpoint = server.endpoint().timeout(Duration::from_millis(60));
    let error = call(&endpoint).await.unwrap_err();
    assert!(matches!(error, EndpointError::TimedOut { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_off_or_is_refused_is_trouble_that_may_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let half = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 4_096]).await.unwrap() > 0);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n[1,").await.unwrap();
    });
    let endpoint = Endpoint::new(&format!("http://{place}/")).unwrap();
    let error = call(&endpoint).await.unwrap_err();
    assert!(matches!(error, EndpointError::Transport { .. }) && error.is_transient(), "{error}");
    half.await.unwrap();
    // Nobody listens there any more.
    let error = call(&endpoint).await.unwrap_err();
    assert!(matches!(error, EndpointError::Transport { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn secrets_are_sent_and_never_shown() {
    // Sends back everything that it was sent.
    let server = Server::start(|_, seen| {
        let plain = percent_decode(&seen.path).unwrap();
        let (path, query) = seen.path.split_once('?').unwrap();
        let body = format!(
            "{:?} p@ss p%40ss, ada: cannot POST {} ({plain}), not {path} with {query}; the end",
            seen.header("authorization"),
            seen.path
        );
        async move { response(400, body) }.boxed()
    })
    .await;
    let url = format!("http://ada:p%40ss@{}/hook/s3cret%21?key=hidden%20too", server.place);
    let endpoint = Endpoint::new(&url).unwrap().header("x-key", "t0ken").unwrap();
    let refused = call(&endpoint).await.unwrap_err();
    let sent = server.seen().remove(0);
    assert_eq!(sent.header("authorization"), "Basic YWRhOnBAc3M=");
    assert_eq!(
        (sent.path.as_str(), sent.header("x-key")),
        ("/hook/s3cret%21?key=hidden%20too", "t0ken")
    );
    drop(server);
    let said = "***, ***: cannot POST *** (***), not *** with ***; the end";
    assert!(refused.to_string().ends_with(said), "{refused}");
    let unreachable = call(&endpoint).await.unwrap_err();
    for shown in [refused.to_string(), unreachable.to_string(), format!("{refused:?} {endpoint:?}")]
    {
        for secret in ["ada", "p@ss", "p%40ss", "YWRhOnBAc3M=", "hook", "s3cret", "hidden", "t0ken"]
        {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

#[tokio::test]
async fn what_is_too_short_to_be_a_secret_leaves_an_answer_readable() {
    let server = Server::with(400, "a name is missing: v=1, text/a").await;
    let url = format!("http://a:pw@{}/?v", server.place);
    let refused = call(&Endpoint::new(&url).unwrap()).await.unwrap_err();
    assert!(refused.to_string().ends_with("it said: a name is missing: v=1, text/a"), "{refused}");
}

#[tokio::test]
async fn urls_and_headers_that_cannot_be_used_are_refused_without_showing_them() {
    for url in
        ["", "/work", "ftp://x:secret@host/", "http://", "http://u:secret@", "http://h h/secret"]
    {
        let error = Endpoint::new(url).unwrap_err();
        assert!(matches!(error, EndpointError::Url(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let endpoint = Endpoint::new("http://localhost/").unwrap();
    assert!(endpoint.clone().header("a b", "x").is_err());
    let error = endpoint.header("a", "secret\r\nb: c").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn https_speaks_tls_to_the_server() {
    let server = Server::with(200, "1").await;
    match Endpoint::new(&format!("https://{}/", server.place)) {
        Ok(endpoint) => {
            let error = call(&endpoint).await.unwrap_err();
            assert!(matches!(error, EndpointError::Transport { .. }), "{error}");
        }
        // A system without certificates.
        Err(error) => assert!(matches!(error, EndpointError::Certificates(_)), "{error}"),
    }
    assert!(server.seen().is_empty(), "nothing was sent in the clear");
}

/// Notifies when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_cancelled_job_breaks_off_its_call() {
    let (begun, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tells, guard) = (begun.clone(), closed.clone());
    let server = Server::start(move |_, _| {
        let (tells, guard) = (tells.clone(), Dropped(guard.clone()));
        async move {
            let _guard = guard;
            tells.notify_one();
            pending().await
        }
        .boxed()
    })
    .await;
    let queue = Queue::new(Arc::new(MemoryStore::new()) as Arc<dyn queue_core::JobStore>).unwrap();
    let task =
        EndpointTask::new("work", server.endpoint()).with_options(TaskOptions::new().retries(5));
    let worker = Worker::new(queue.clone())
        .dyn_task(task)
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    let job = NewJob::new("work", Payload::null());
    let id = job.id;
    queue.insert(vec![job]).await.unwrap();
    let cancelling = async {
        begun.notified().await;
        assert!(queue.cancel(id, "enough").await.unwrap().is_saved());
        tokio::time::timeout(Duration::from_secs(20), closed.notified()).await.unwrap();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), cancelling);
    assert_eq!(summary.unwrap().jobs.len(), 1);
    let job = queue.job(id).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (State::Cancelled, 1));
}

#[test]
fn what_is_not_printable_ascii_is_written_in_hexadecimal() {
    assert_eq!(printable("step-1/ä b%"), "step-1/%C3%A4%20b%25");
}
