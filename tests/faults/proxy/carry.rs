//! The carrying: frames of the protocol from one side to the other, in the order in which they came, when they may pass.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_postgres::{Config, config::Host};
use tokio_util::sync::CancellationToken;

use super::{Control, Fate, Flow, LongWay, Stage, Trap, lock};

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

/// Serves whoever connects, until it is aborted.
pub(super) async fn accept(listener: TcpListener, control: Arc<Control>) {
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
    // The handshake, which is over for the client already, goes there and back as well.
    let ways = [control.requests.borrow().long, control.replies.borrow().long];
    sleep_until(Instant::now() + ways.into_iter().flatten().map(LongWay::next).sum::<Duration>()).await;
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

/// Frames that came together are one packet, as far as a network can tell.
const TOGETHER: Duration = Duration::from_millis(2);

/// One direction of a connection: when its last packet began and ended its way.
#[derive(Debug, Default)]
struct Way(Option<(Instant, Instant)>);

/// Waits until a frame may pass.
async fn pass(came: Instant, flow: &watch::Sender<Flow>, way: &mut Way) {
    let mut flows = flow.subscribe();
    let Flow { delay, long, .. } = *flows.borrow();
    let passes = match (long, way.0) {
        (None, _) => came + delay,
        (Some(_), Some((before, passes))) if came.duration_since(before) < TOGETHER => passes,
        (Some(long), _) => came + delay + long.next(),
    };
    way.0 = Some((came, passes));
    sleep_until(passes).await;
    // The sender lives as long as the proxy.
    let _ = flows.wait_for(|flow| !flow.held).await;
}

async fn write_requests(mut frames: Frames, mut to: Writer, control: &Control, link: &Link) -> io::Result<()> {
    let (mut statements, mut way) = (HashMap::new(), Way::default());
    while let Some((came, frame)) = frames.recv().await {
        pass(came, &control.requests, &mut way).await;
        if let Some(trap) = text(&frame, &mut statements).and_then(|text| spring(control, &text)) {
            if trap.0.fate == Fate::StrayRequest {
                link.hung_up.cancel();
            }
            if matches!(trap.0.fate, Fate::StrayRequest | Fate::HoldRequest) {
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
    let mut way = Way::default();
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
        pass(came, &control.replies, &mut way).await;
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
                Fate::StrayRequest | Fate::HoldRequest => {}
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
