//! A proxy between a replica and Postgres, under the control of a row: what the network between them may do.
//!
//! It reads the frames of the protocol, so that a row can choose one statement by its text and say what becomes of it
//! ([`Proxy::trap`]), and beside that delays, holds or cuts everything. Bytes are never changed. No TLS.

mod carry;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_postgres::Config;
use tokio_util::sync::CancellationToken;

use crate::bound::BOUND_AFTER_OUTAGE;

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
    /// The request reaches the server when it is let go, and until then the client waits.
    HoldRequest,
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
        let reached = tokio::time::timeout(BOUND_AFTER_OUTAGE, stages.wait_for(|now| *now >= stage));
        assert!(reached.await.is_ok(), "no statement with {:?} came as far as {stage:?}", self.0.text);
    }

    /// Whether the statement was sent.
    pub(crate) fn is_sprung(&self) -> bool {
        *self.0.stage.borrow() >= Stage::Sprung
    }

    /// Lets go of what is held.
    pub(crate) fn let_go(&self) {
        self.0.let_go.cancel();
    }
}

/// A network of long and unequal ways that loses packets, as TCP lets one see it: what was lost comes again, later, and all
/// that was sent after it waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LongWay {
    /// How long a packet takes in one direction,
    pub(crate) takes: Duration,
    /// and how much less or more.
    pub(crate) spread: Duration,
    /// Of a packet, to be lost.
    pub(crate) loss: f64,
    /// When it is sent again; and twice as long after that, should it be lost again.
    pub(crate) again_after: Duration,
}

impl LongWay {
    /// How long the next packet is on its way.
    fn next(self) -> Duration {
        let mut takes = self.takes.saturating_sub(self.spread) + (self.spread * 2).mul_f64(rand::random());
        let mut again_after = self.again_after;
        while rand::random::<f64>() < self.loss {
            takes += again_after;
            again_after *= 2;
        }
        takes
    }
}

/// What happens to one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Flow {
    delay: Duration,
    long: Option<LongWay>,
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
        let task = tokio::spawn(carry::accept(listener, Arc::clone(&control)));
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

    /// Everything takes a long way, in both directions.
    pub(crate) fn lead_astray(&self, way: LongWay) {
        self.control.requests.send_modify(|flow| flow.long = Some(way));
        self.control.replies.send_modify(|flow| flow.long = Some(way));
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
