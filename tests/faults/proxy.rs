//! A proxy between a replica and Postgres, under the control of a row: what the network between them may do.
//!
//! It reads the frames of the protocol, so that a row can choose one statement by its text and say what becomes of it
//! ([`Proxy::trap`]), and beside that delays, holds or cuts everything. Bytes are never changed. No TLS.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_postgres::{Config, config::Host};
use tokio_util::sync::CancellationToken;

/// What a claim's text holds, and no other's.
pub(crate) const CLAIM: &str = "insert into orch.agent_runs";
/// What a settle's text holds, and no other's.
pub(crate) const SETTLE: &str = "orch.settle_rule(";
/// What each kind of renewal's text holds, and nothing else that is sent over the connection for renewals.
pub(crate) const RENEWAL: &str = "lease_until = greatest(lease_until";

/// What becomes of a chosen statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The connection ends at once; the request reaches the server when it is let go.
    StrayRequest,
    /// The server executes it; its reply comes when it is let go.
    HoldReply,
    /// The server executes it; its reply and all that would follow on this connection are swallowed.
    LoseReply,
    /// The server executes it; instead of its reply the connection ends.
    CutReply,
}

/// How far a trap has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Set,
    Sprung,
    Answered,
}

#[derive(Debug)]
struct TrapState {
    text: String,
    fate: Fate,
    /// Not the next one alone, but each until they are let go.
    each: bool,
    stage: watch::Sender<Stage>,
    let_go: CancellationToken,
}

/// One statement to come, or each of a kind, and its fate.
#[derive(Debug, Clone)]
pub(crate) struct Trap(Arc<TrapState>);

impl Trap {
    /// Waits until the statement was sent.
    pub(crate) async fn sprung(&self) {
        self.reached(Stage::Sprung).await;
    }

    /// Waits until the server has executed the statement and answered.
    pub(crate) async fn answered(&self) {
        self.reached(Stage::Answered).await;
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.0.stage.subscribe();
        let reached = tokio::time::timeout(super::case::BOUND_AFTER_OUTAGE, stages.wait_for(|now| *now >= stage));
        assert!(reached.await.is_ok(), "no statement with {:?} came as far as {stage:?}", self.0.text);
    }

    /// Lets go of what is held.
    pub(crate) fn let_go(&self) {
        self.0.let_go.cancel();
    }
}

/// What happens to one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flow {
    delay: Duration,
    /// Nothing passes; what is sent meanwhile arrives when it is over, as TCP would deliver it.
    held: bool,
}

#[derive(Debug)]
struct Control {
    upstream: Config,
    requests: watch::Sender<Flow>,
    replies: watch::Sender<Flow>,
    refusing: watch::Sender<bool>,
    cut: Mutex<CancellationToken>,
    traps: Mutex<Vec<Trap>>,
}

/// A proxy that listens; dropped, it and its connections end.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    control: Arc<Control>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before this server.
    pub(crate) async fn before(upstream: Config) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let control = Arc::new(Control {
            upstream,
            requests: watch::Sender::default(),
            replies: watch::Sender::default(),
            refusing: watch::Sender::new(false),
            cut: Mutex::default(),
            traps: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&control)));
        Self { port, control, task }
    }

    /// The database of this URL, through the proxy; in plain text, since the proxy reads what passes.
    pub(crate) fn url(&self, url: &str) -> String {
        let (who, where_to) = url.split_once('@').expect("a URL with a user");
        let (_, database) = where_to.split_once('/').expect("a URL with a database");
        format!("{who}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Every request takes so much longer.
    pub(crate) fn delay_requests(&self, delay: Duration) {
        self.control.requests.send_modify(|flow| flow.delay = delay);
    }

    /// Every reply takes so much longer.
    pub(crate) fn delay_replies(&self, delay: Duration) {
        self.control.replies.send_modify(|flow| flow.delay = delay);
    }

    /// Nothing passes in either direction, and nobody is told.
    pub(crate) fn black_hole(&self) {
        self.control.requests.send_modify(|flow| flow.held = true);
        self.control.replies.send_modify(|flow| flow.held = true);
    }

    /// Requests arrive, replies do not.
    pub(crate) fn hold_replies(&self) {
        self.control.replies.send_modify(|flow| flow.held = true);
    }

    /// Everything passes as it should; what was held arrives.
    pub(crate) fn heal(&self) {
        self.control.requests.send_replace(Flow::default());
        self.control.replies.send_replace(Flow::default());
        self.control.refusing.send_replace(false);
    }

    /// Ends every connection, with what is under way on it.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *lock(&self.control.cut)).cancel();
    }

    /// Ends each new connection at once; those that are there stay.
    pub(crate) fn refuse_new(&self) {
        self.control.refusing.send_replace(true);
    }

    /// Ends every connection, and each new one at once.
    pub(crate) fn refuse(&self) {
        self.refuse_new();
        self.cut();
    }

    /// Chooses the next statement whose text holds this.
    pub(crate) fn trap(&self, text: &str, fate: Fate) -> Trap {
        self.set(text, fate, false)
    }

    /// Chooses each statement whose text holds this, until they are let go.
    pub(crate) fn trap_each(&self, text: &str, fate: Fate) -> Trap {
        self.set(text, fate, true)
    }

    fn set(&self, text: &str, fate: Fate, each: bool) -> Trap {
        let state = TrapState {
            text: text.to_owned(),
            fate,
            each,
            stage: watch::Sender::new(Stage::Set),
            let_go: CancellationToken::new(),
        };
        let trap = Trap(Arc::new(state));
        lock(&self.control.traps).push(trap.clone());
        trap
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
/// A whole frame, and when it came.
type Frames = mpsc::UnboundedReceiver<(Instant, Vec<u8>)>;

/// What the two directions of a connection know of each other.
#[derive(Debug, Default)]
struct Link {
    /// Which trap the reply that is to come is for.
    awaited: Mutex<Option<Trap>>,
    /// The client's end is closed.
    hung_up: CancellationToken,
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if !*control.refusing.borrow() {
            let cut = lock(&control.cut).clone();
            let connection = carry(client, Arc::clone(&control));
            // However a connection ends, it ends for both.
            tokio::spawn(async move { cut.run_until_cancelled(connection).await.transpose().ok().flatten() });
        }
    }
}

async fn carry(client: TcpStream, control: Arc<Control>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (from_server, to_server) = connect(&control.upstream).await?;
    let (from_client, to_client) = client.into_split();
    let link = Link::default();
    let (requests, asked) = mpsc::unbounded_channel();
    let (replies, answered) = mpsc::unbounded_channel();
    tokio::try_join!(
        async {
            let read = read_frames(Box::new(from_client), true, requests);
            // A client that is gone leaves what it has sent.
            let _ = link.hung_up.run_until_cancelled(read).await;
            Ok(())
        },
        write_requests(asked, to_server, &control, &link),
        read_frames(from_server, false, replies),
        write_replies(answered, Box::new(to_client), &control, &link),
    )?;
    Ok(())
}

async fn connect(upstream: &Config) -> io::Result<(Reader, Writer)> {
    let port = upstream.get_ports().first().copied().unwrap_or(5432);
    match upstream.get_hosts().first() {
        Some(Host::Unix(dir)) => {
            let (reader, writer) = UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await?.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
        Some(Host::Tcp(host)) => split(TcpStream::connect((host.as_str(), port)).await?),
        None => split(TcpStream::connect(("127.0.0.1", port)).await?),
    }
}

fn split(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((Box::new(reader), Box::new(writer)))
}

/// Reads whole frames until the end. A client's first has no kind.
async fn read_frames(mut from: Reader, starts: bool, to: mpsc::UnboundedSender<(Instant, Vec<u8>)>) -> io::Result<()> {
    let mut header = if starts { 4 } else { 5 };
    loop {
        let mut frame = vec![0; header];
        match from.read_exact(&mut frame).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let length = u32::from_be_bytes(frame[header - 4..].try_into().expect("four bytes")) as usize;
        let body = length.checked_sub(4).ok_or_else(|| io::Error::other("a frame shorter than its length"))?;
        frame.resize(header + body, 0);
        from.read_exact(&mut frame[header..]).await?;
        header = 5;
        if to.send((Instant::now(), frame)).is_err() {
            return Ok(());
        }
    }
}

/// Waits until a frame may pass.
async fn pass(came: Instant, flow: &watch::Sender<Flow>) {
    let mut flows = flow.subscribe();
    let delay = flows.borrow().delay;
    sleep_until(came + delay).await;
    // The sender lives as long as the proxy.
    let _ = flows.wait_for(|flow| !flow.held).await;
}

async fn write_requests(mut frames: Frames, mut to: Writer, control: &Control, link: &Link) -> io::Result<()> {
    let mut statements = HashMap::new();
    while let Some((came, frame)) = frames.recv().await {
        pass(came, &control.requests).await;
        if let Some(trap) = text(&frame, &mut statements).and_then(|text| spring(control, &text)) {
            if trap.0.fate == Fate::StrayRequest {
                link.hung_up.cancel();
                trap.0.let_go.cancelled().await;
            }
            *lock(&link.awaited) = Some(trap);
        }
        to.write_all(&frame).await?;
    }
    to.shutdown().await
}

/// The text of the statement that a frame executes.
fn text(frame: &[u8], statements: &mut HashMap<Vec<u8>, String>) -> Option<String> {
    let mut words = frame.get(5..)?.split(|byte| *byte == 0);
    match frame[0] {
        b'P' => {
            let name = words.next()?.to_owned();
            statements.insert(name, String::from_utf8_lossy(words.next()?).into_owned());
            None
        }
        b'B' => statements.get(words.nth(1)?).cloned(),
        b'Q' => Some(String::from_utf8_lossy(words.next()?).into_owned()),
        _ => None,
    }
}

/// The trap that this statement springs; one for a single statement is taken away.
fn spring(control: &Control, text: &str) -> Option<Trap> {
    let mut traps = lock(&control.traps);
    traps.retain(|trap| !trap.0.let_go.is_cancelled());
    let place = traps.iter().position(|trap| text.contains(&trap.0.text))?;
    let trap = if traps[place].0.each { traps[place].clone() } else { traps.remove(place) };
    trap.0.stage.send_if_modified(|stage| {
        let first = *stage == Stage::Set;
        if first {
            *stage = Stage::Sprung;
        }
        first
    });
    Some(trap)
}

async fn write_replies(mut frames: Frames, to: Writer, control: &Control, link: &Link) -> io::Result<()> {
    let mut to = Some(to);
    let mut held = Vec::new();
    let mut deaf = false;
    loop {
        let (came, frame) = tokio::select! {
            biased;
            () = link.hung_up.cancelled(), if to.is_some() => {
                to = None;
                continue;
            }
            frame = frames.recv() => match frame {
                Some(frame) => frame,
                // The server has closed the connection.
                None => return Err(io::ErrorKind::ConnectionReset.into()),
            },
        };
        pass(came, &control.replies).await;
        let is_end = frame[0] == b'Z';
        let awaited = lock(&link.awaited).clone();
        if let Some(trap) = awaited {
            held.extend_from_slice(&frame);
            if !is_end {
                continue;
            }
            *lock(&link.awaited) = None;
            trap.0.stage.send_replace(Stage::Answered);
            match trap.0.fate {
                Fate::StrayRequest => {}
                Fate::HoldReply => trap.0.let_go.cancelled().await,
                Fate::LoseReply => deaf = true,
                Fate::CutReply => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        } else {
            held.extend_from_slice(&frame);
        }
        let reply = std::mem::take(&mut held);
        if let Some(client) = to.as_mut().filter(|_| !deaf)
            && client.write_all(&reply).await.is_err()
        {
            // The server must be able to go on all the same.
            to = None;
        }
    }
}
