//! Secrets in a run's output: found before any of it is kept, and written as `[redacted NAME]`.
//!
//! Owns the bytes that may be the beginning of a secret, until it is known; everything else goes on at once. A secret is found
//! however the output is cut into pieces, whatever bytes surround it, and where two overlap all of both is hidden. Encoded
//! forms of it (base64, quoted in JSON or a URL) are other texts, and are not found. The time that a piece takes is bounded by
//! its length, whatever stands in it.

use std::collections::VecDeque;

use super::protocol::Spec;
use crate::model::secret::{SHORTEST, hidden_lines};

/// What is passed on in one piece, where much is replaced.
const PIECE: usize = 16 * 1024;
const ROOT: u32 = 0;
/// No such node, and no such secret.
const NONE: u32 = u32::MAX;

/// Replaces the secrets of one output.
#[derive(Debug)]
pub(super) struct Redactor {
    secrets: Secrets,
    state: u32,
    /// What was not passed on yet.
    held: Vec<u8>,
    /// What of it is secret, in order and apart from each other.
    found: VecDeque<Range>,
}

/// Bytes of what is held.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: usize,
    end: usize,
    /// Whose secret it begins with. None for the rest of one whose beginning has been replaced.
    name: Option<u32>,
}

impl Redactor {
    /// For the variables that the spec names; `None` where they have nothing to hide.
    pub(super) fn of(spec: &Spec) -> Option<Self> {
        let mut secrets = Secrets::new();
        for (name, value) in spec.env.iter().filter(|(name, _)| spec.redact.contains(name)) {
            secrets.add(name, hidden_lines(value));
        }
        secrets.link();
        let (held, found) = (Vec::new(), VecDeque::new());
        (!secrets.names.is_empty()).then_some(Self { secrets, state: ROOT, held, found })
    }

    /// Takes the next bytes of the output, and passes on what is certain.
    pub(super) fn take(&mut self, bytes: &[u8], write: impl FnMut(&[u8])) {
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        for (index, byte) in bytes.iter().enumerate() {
            self.state = self.secrets.step(self.state, *byte);
            let node = self.secrets.node(self.state);
            if node.longest > 0 {
                self.hide(before + index + 1, node.longest as usize, node.secret);
            }
        }
        let open = self.secrets.node(self.state).open as usize;
        self.pass_on(self.held.len().saturating_sub(open), write);
    }

    /// The output has ended, or nothing more is waited for: passes everything on. What may have become a secret is hidden
    /// if it is long enough to be one.
    pub(super) fn finish(&mut self, write: impl FnMut(&[u8])) {
        let node = self.secrets.node(std::mem::replace(&mut self.state, ROOT));
        let (open, begun) = (node.open as usize, node.begun);
        if open >= SHORTEST && begun != NONE {
            self.hide(self.held.len(), open, begun);
        }
        self.pass_on(self.held.len(), write);
    }

    /// The `length` bytes before `end` are secret. They may have begun before what is held, within what was replaced:
    /// nothing else is passed on as long as a secret may have begun in it.
    fn hide(&mut self, end: usize, length: usize, name: u32) {
        let mut range = match end.checked_sub(length) {
            Some(start) => Range { start, end, name: Some(name) },
            None => Range { start: 0, end, name: None },
        };
        while let Some(last) = self.found.pop_back_if(|last| last.end > range.start) {
            // A longer one that begins where the last does is the better name.
            if last.start < range.start || (last.start == range.start && last.name.is_none()) {
                range = Range { end, ..last };
            }
        }
        self.found.push_back(range);
    }

    /// Passes on what is held before `safe`, from where on a secret may have begun. One that begins before it is replaced
    /// whole; should it turn out to be longer, so is the rest.
    fn pass_on(&mut self, safe: usize, mut write: impl FnMut(&[u8])) {
        let (mut out, mut done) = (Vec::new(), 0);
        let mut add = |bytes: &[u8], out: &mut Vec<u8>| {
            if out.len() + bytes.len() > PIECE {
                write(out);
                out.clear();
            }
            out.extend_from_slice(bytes);
        };
        while let Some(range) = self.found.pop_front_if(|range| range.start < safe) {
            add(&self.held[done..range.start], &mut out);
            if let Some(name) = range.name {
                add(format!("[redacted {}]", self.secrets.names[name as usize]).as_bytes(), &mut out);
            }
            done = range.end;
        }
        if done < safe {
            add(&self.held[done..safe], &mut out);
            done = safe;
        }
        if !out.is_empty() {
            write(&out);
        }
        self.held.drain(..done);
        for range in &mut self.found {
            // It begins at `safe` or later, and what was replaced before it ends before it.
            (range.start, range.end) = (range.start - done, range.end - done);
        }
    }
}

/// All secrets at once: an automaton (Aho and Corasick) whose every state is a beginning of one.
#[derive(Debug)]
struct Secrets {
    nodes: Vec<Node>,
    /// Where each byte leads from the root, where nearly all of an output is.
    first: [u32; 256],
    names: Vec<String>,
}

/// A beginning of a secret, and what is known where it has just been read.
#[derive(Debug, Clone, Copy)]
struct Node {
    byte: u8,
    child: u32,
    sibling: u32,
    /// The longest shorter beginning that ends here as well.
    fail: u32,
    /// Of how many bytes it is.
    depth: u32,
    /// How long the longest secret is that ends here, if one does, and whose it is.
    longest: u32,
    secret: u32,
    /// How many of the last bytes may go on to be a secret, and whose.
    open: u32,
    begun: u32,
}

impl Secrets {
    fn new() -> Self {
        Self { nodes: vec![Node::new(0, 0)], first: [ROOT; 256], names: Vec::new() }
    }

    fn node(&self, state: u32) -> Node {
        self.nodes[state as usize]
    }

    fn add<'a>(&mut self, name: &str, texts: impl Iterator<Item = &'a str>) {
        let secret = self.names.len() as u32;
        for text in texts {
            if self.names.len() as u32 == secret {
                self.names.push(name.to_owned());
            }
            let mut state = ROOT;
            for byte in text.bytes() {
                state = self.child(state, byte).unwrap_or_else(|| self.grow(state, byte, secret));
            }
            let last = &mut self.nodes[state as usize];
            if last.longest == 0 {
                (last.longest, last.secret) = (last.depth, secret);
            }
        }
    }

    fn grow(&mut self, parent: u32, byte: u8, secret: u32) -> u32 {
        let child = self.nodes.len() as u32;
        let above = &mut self.nodes[parent as usize];
        let node = Node { sibling: above.child, begun: secret, ..Node::new(byte, above.depth + 1) };
        above.child = child;
        self.nodes.push(node);
        child
    }

    fn child(&self, state: u32, byte: u8) -> Option<u32> {
        let mut child = self.node(state).child;
        while child != NONE {
            let node = self.node(child);
            if node.byte == byte {
                return Some(child);
            }
            child = node.sibling;
        }
        None
    }

    /// Once all are added: where each state goes on when its own way ends. Shorter ones first.
    fn link(&mut self) {
        let mut queue = VecDeque::from([ROOT]);
        while let Some(state) = queue.pop_front() {
            let mut child = self.node(state).child;
            while child != NONE {
                let node = self.node(child);
                if state == ROOT {
                    self.first[node.byte as usize] = child;
                } else {
                    self.nodes[child as usize].fail = self.step(self.node(state).fail, node.byte);
                }
                queue.push_back(child);
                child = node.sibling;
            }
            let fallback = self.node(self.node(state).fail);
            let node = &mut self.nodes[state as usize];
            if node.longest == 0 {
                (node.longest, node.secret) = (fallback.longest, fallback.secret);
            }
            (node.open, node.begun) =
                if node.child == NONE { (fallback.open, fallback.begun) } else { (node.depth, node.begun) };
        }
    }

    /// What has been read, with one more byte.
    fn step(&self, mut state: u32, byte: u8) -> u32 {
        while state != ROOT {
            if let Some(child) = self.child(state, byte) {
                return child;
            }
            state = self.node(state).fail;
        }
        self.first[byte as usize]
    }
}

impl Node {
    const fn new(byte: u8, depth: u32) -> Self {
        let (child, sibling, secret, begun) = (NONE, NONE, NONE, NONE);
        Self { byte, child, sibling, fail: ROOT, depth, longest: 0, secret, open: 0, begun }
    }
}

#[cfg(test)]
mod tests;
