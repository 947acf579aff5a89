//! `orch enqueue --from FILE`: the jobs of a file in one transaction, all or none of them.
//!
//! A thread reads lines and looks at them while the database takes the piece before. Only the commit makes anything of it
//! true: whatever ends this program first, Ctrl-C as well, has enqueued nothing.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{self, Receiver};

use super::{
    EnqueueArgs, check_agent,
    ids::Ids,
    lines::{Lines, Piece},
};
use crate::{
    cli::{
        context::{Context, explain},
        exit::Exit,
        output,
    },
    db::{
        self, Db,
        bulk::{Bulk, Fault, Refusal, Twin},
        jobs::When,
    },
};

/// How often a file is read once more, because another transaction with the same dedupe keys was in the way.
const AGAIN: u32 = 5;

/// A piece, and what is wrong with the line behind it.
type Read = (Piece, anyhow::Result<()>);

/// Why nothing was enqueued.
#[derive(Debug)]
enum Failure {
    /// Two transactions waited for each other, and this one gave way.
    Conflict(String),
    /// Anything that the next try would meet again.
    Other(anyhow::Error),
    /// Or it was: nobody knows.
    Unknown(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Conflict(why) => Self::Conflict(why),
            error => Self::Other(explain(&error)),
        }
    }
}

pub(super) async fn run(context: &Context, args: &EnqueueArgs, file: &Path) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let known = if args.any_agent { None } else { Some(db.agent_names().await.map_err(|error| explain(&error))?) };
    let name = if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() };
    let mut tries = 0;
    let ids = loop {
        match load(context, &db, args, file, known.clone()).await {
            Ok(ids) => break ids,
            Err(Failure::Conflict(_)) if tries < AGAIN && !is_stdin(file) => tries += 1,
            Err(Failure::Conflict(why)) => {
                bail!("{}; nothing of {name} was enqueued", explain(&db::Error::Conflict(why)));
            }
            Err(Failure::Other(error)) => bail!("{name}: {error:#}; nothing was enqueued"),
            Err(Failure::Unknown(why)) => bail!(
                "the database went away in the commit ({why}), and whether all of {name} was enqueued or nothing is unknown: look with `orch jobs`"
            ),
        }
    };
    if context.json {
        output::document(&json!({ "count": ids.count(), "ids": ids }))?;
    } else {
        output::line(&ids.to_string())?;
    }
    Ok(Exit::Done)
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

async fn load(
    context: &Context,
    db: &Db,
    args: &EnqueueArgs,
    file: &Path,
    known: Option<Vec<String>>,
) -> Result<Ids, Failure> {
    let (source, bar) = open(file)?;
    let bulk = db.begin_bulk().await?;
    let lines = Lines::new(source, defaults(args, &bulk).await?, context.settings.payload_max, judge(args, known));
    let answer = send(&bulk, read(lines)?, &bar).await;
    bar.finish_and_clear();
    let ids = answer?;
    match bulk.commit().await {
        Ok(()) => Ok(ids),
        Err(db::Error::Unavailable(why)) => Err(Failure::Unknown(why)),
        Err(error) => Err(error.into()),
    }
}

/// The input, and a bar for people: of the file's bytes, or, where nobody knows how much will come, without an end.
fn open(file: &Path) -> anyhow::Result<(Box<dyn BufRead + Send>, ProgressBar)> {
    let style = |template| ProgressStyle::with_template(template).expect("the template is well-formed");
    if is_stdin(file) {
        let bar = ProgressBar::new_spinner().with_style(style("{spinner} {msg}"));
        return Ok((Box::new(BufReader::new(io::stdin())), bar));
    }
    let opened = File::open(file).context("failed to open it")?;
    let meta = opened.metadata().context("failed to look at it")?;
    if meta.is_dir() {
        bail!("it is a directory");
    }
    let bar = if meta.is_file() {
        ProgressBar::new(meta.len()).with_style(style("{bar:40} {percent:>3} %  {msg}"))
    } else {
        ProgressBar::new_spinner().with_style(style("{spinner} {msg}"))
    };
    Ok((Box::new(BufReader::with_capacity(256 * 1024, opened)), bar))
}

/// What the flags say for lines that say nothing: members of a JSON object.
async fn defaults(args: &EnqueueArgs, bulk: &Bulk) -> Result<String, Failure> {
    let run_at = match args.run_at {
        None => None,
        Some(When::At(at)) => Some(at),
        Some(When::In(span)) => Some(bulk.instant_in(span).await?),
    };
    let object = |labels: &[(String, String)]| -> Option<Value> {
        (!labels.is_empty()).then(|| labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect())
    };
    let members: Map<String, Value> = [
        ("agent", args.agent.as_ref().map(|agent| json!(agent))),
        ("project", args.project.as_ref().map(|project| json!(project))),
        ("priority", args.priority.map(|priority| json!(priority))),
        ("run_at", run_at.map(|at| json!(at))),
        ("gate", args.gate.as_ref().map(|gate| json!(gate))),
        ("limits", (!args.limit.is_empty()).then(|| json!(args.limit))),
        ("require", object(&args.require)),
        ("after", (!args.after.is_empty()).then(|| json!(args.after))),
        ("labels", object(&args.label)),
        ("max_attempts", args.max_attempts.map(|max| json!(max))),
        ("timeout", args.timeout.map(|timeout| json!(format!("{} seconds", timeout.as_secs_f64())))),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect();
    let object = Value::Object(members).to_string();
    Ok(object[1..object.len() - 1].to_owned())
}

/// Refuses agents that nobody serves; each name is looked up once.
fn judge(
    args: &EnqueueArgs,
    known: Option<Vec<String>>,
) -> impl FnMut(Option<&str>) -> anyhow::Result<()> + Send + use<> {
    let by_flag = args.agent.clone();
    let mut good: HashSet<String> = HashSet::new();
    move |agent| {
        // One that is missing is the database's to refuse, with everything else.
        let (Some(known), Some(agent)) = (&known, agent.or(by_flag.as_deref())) else { return Ok(()) };
        if !good.contains(agent) {
            check_agent(agent, known)?;
            good.insert(agent.to_owned());
        }
        Ok(())
    }
}

/// Reads on a thread, which is left alone if nobody wants to hear of it any more: standard input may never end.
fn read<R, A>(mut lines: Lines<R, A>) -> anyhow::Result<Receiver<Read>>
where
    R: BufRead + Send + 'static,
    A: FnMut(Option<&str>) -> anyhow::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let reader = thread::Builder::new().name("lines".to_owned());
    reader
        .spawn(move || {
            loop {
                let (piece, answer) = lines.next();
                let is_last = piece.len() == 0 || answer.is_err();
                if sender.blocking_send((piece, answer)).is_err() || is_last {
                    break;
                }
            }
        })
        .context("failed to start a thread")?;
    Ok(receiver)
}

/// Sends piece after piece up to the empty one, which is the end.
async fn send(bulk: &Bulk, mut pieces: Receiver<Read>, bar: &ProgressBar) -> Result<Ids, Failure> {
    let mut ids = Ids::default();
    loop {
        let (piece, answer) = pieces.recv().await.context("the reader ended before the input did")?;
        if piece.len() > 0 {
            match bulk.enqueue(&piece.wishes).await? {
                Ok(numbers) => ids.extend(numbers.into_iter().enumerate().map(|(place, id)| (id, piece.line(place)))),
                Err(Refusal::Fault(fault)) => return Err(worded(&piece, &ids, &fault).into()),
                Err(Refusal::Unreadable(why)) => return Err(unreadable(bulk, &piece, &ids, &why).await?.into()),
            }
        }
        answer?;
        if piece.len() == 0 {
            return Ok(ids);
        }
        bar.set_position(piece.read);
        bar.set_message(format!("{} jobs", ids.count()));
    }
}

/// The fault with its line, and with that of its twin: the number of its job would be nobody's.
fn worded(piece: &Piece, ids: &Ids, fault: &Fault) -> anyhow::Error {
    let (line, complaint) = (piece.line(fault.place), &fault.complaint);
    let twin = match fault.twin {
        Some(Twin::Wish(place)) => Some(piece.line(place)),
        Some(Twin::Job(id)) => ids.line_of(id),
        None => None,
    };
    match twin {
        Some(twin) => anyhow!("line {line}: {complaint}: line {twin} has it already"),
        None => anyhow!("line {line}: {complaint}"),
    }
}

/// JSON allows what jsonb cannot hold; the line is looked for, and a fault above it.
async fn unreadable(bulk: &Bulk, piece: &Piece, ids: &Ids, why: &str) -> Result<anyhow::Error, Failure> {
    let each = piece.each();
    let Some((place, why)) = bulk.find_unreadable(&each).await? else {
        let (first, last) = (piece.line(0), piece.line(piece.len().saturating_sub(1)));
        return Ok(anyhow!("lines {first} to {last}: {why}"));
    };
    let above = format!("[{}]", each[..place].join(","));
    Ok(match bulk.enqueue(&above).await? {
        Err(Refusal::Fault(fault)) => worded(piece, ids, &fault),
        _ => anyhow!("line {}: the database cannot hold it: {why}", piece.line(place)),
    })
}
