//! Frames on a stream: four bytes of length, little-endian, then JSON.
//!
//! Owns the framing and its bounds. A frame that is longer than allowed ends the conversation; one that is well framed
//! and not understood comes from another version and is passed over.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// The longest frame that a shim reads, in bytes.
pub(super) const REQUEST_MAX: usize = 16 * 1024;
/// The longest frame that a replica reads: a result of 1 MiB whose every byte is escaped, and some room.
pub(super) const REPORT_MAX: usize = 8 * 1024 * 1024;

const HEADER: usize = 4;

/// One message as a frame.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - HEADER).map_err(io::Error::other)?;
    bytes[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Bytes that have arrived and are not yet a whole frame.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    max: usize,
}

impl Inbox {
    /// An empty one for frames of at most `max` bytes. Allocates nothing.
    pub(super) const fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    /// Takes what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is understood, if it is whole.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        while let Some(header) = self.bytes.first_chunk::<HEADER>() {
            let length = u32::from_le_bytes(*header) as usize;
            if length > self.max {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a frame of {length} bytes is too long"),
                ));
            }
            let Some(body) = self.bytes.get(HEADER..HEADER + length) else { break };
            let message = serde_json::from_slice(body).ok();
            self.bytes.drain(..HEADER + length);
            if self.bytes.is_empty() {
                // A frame may have been large; a handle lives for hours.
                self.bytes = Vec::new();
            }
            if message.is_some() {
                return Ok(message);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let mut bytes = frame(&"one").unwrap();
        bytes.extend(frame(&22).unwrap());
        bytes.extend(frame(&"three").unwrap());
        let mut inbox = Inbox::new(REQUEST_MAX);
        let mut heard = Vec::new();
        for byte in bytes {
            inbox.push(&[byte]);
            // The number is not a text: a message of another version, passed over.
            heard.extend(inbox.next::<String>().unwrap());
        }
        assert_eq!(heard, ["one", "three"]);
    }

    #[test]
    fn a_frame_beyond_the_bound_is_refused_before_it_is_stored() {
        let mut inbox = Inbox::new(8);
        inbox.push(&9_u32.to_le_bytes());
        assert!(inbox.next::<String>().is_err());
    }
}
