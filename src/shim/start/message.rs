//! A program as one message, for the process that was forked ahead of it.
//!
//! Owns its layout, which no other version ever reads: both ends are one binary that was forked. It is flat, so that whoever
//! reads it touches little code: each page of code that a process has touched is one that its exec lets go first.

use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    time::Duration,
};

use super::{Identity, Program};

/// A longer one does not fit into one packet for certain; its program is forked when it is known.
pub(in crate::shim) const MESSAGE_MAX: usize = 64 * 1024;

impl Program {
    /// What [`Program::of_message`] reads. None: it holds a zero byte or limits of a process, or it is too long.
    pub(in crate::shim) fn to_message(&self) -> Option<Vec<u8>> {
        if !self.rlimits.is_empty() || !self.doors.is_empty() {
            return None;
        }
        let lists = [&self.paths, &self.arguments, &self.environment];
        let mut numbers = Vec::with_capacity(16);
        for list in lists {
            numbers.push(u32::try_from(list.len()).ok()?);
        }
        numbers.push(u32::try_from(self.kill_grace.as_millis()).ok()?);
        if let Some(Identity { uid, gid, groups }) = &self.identity {
            numbers.extend([*uid, *gid]);
            numbers.extend(groups);
        }
        let mut message = Vec::with_capacity(4096);
        message.extend(u32::try_from(numbers.len()).ok()?.to_le_bytes());
        message.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
        for text in [self.name.as_bytes(), self.user.as_bytes(), path(&self.cwd), path(&self.payload)] {
            if text.contains(&0) {
                return None;
            }
            message.extend_from_slice(text);
            message.push(0);
        }
        for text in lists.into_iter().flatten() {
            message.extend_from_slice(text.as_bytes_with_nul());
        }
        (message.len() <= MESSAGE_MAX).then_some(message)
    }

    /// The program of a message. None: it is not one.
    pub(in crate::shim) fn of_message(message: &[u8]) -> Option<Self> {
        let mut message = Message(message);
        let mut numbers = Vec::new();
        for _ in 0..message.number()? {
            numbers.push(message.number()?);
        }
        let (&[paths, arguments, environment, kill_grace_ms], identity) = numbers.split_first_chunk()?;
        let identity = match identity {
            [] => None,
            [uid, gid, groups @ ..] => Some(Identity { uid: *uid, gid: *gid, groups: groups.to_vec() }),
            [_] => return None,
        };
        Some(Self {
            name: message.text()?.to_str().ok()?.to_owned(),
            user: message.text()?.to_str().ok()?.to_owned(),
            cwd: OsStr::from_bytes(message.text()?.to_bytes()).into(),
            payload: OsStr::from_bytes(message.text()?.to_bytes()).into(),
            paths: message.texts(paths)?,
            arguments: message.texts(arguments)?,
            environment: message.texts(environment)?,
            identity,
            kill_grace: Duration::from_millis(kill_grace_ms.into()),
            rlimits: Vec::new(),
            doors: Vec::new(),
        })
    }
}

fn path(path: &std::path::Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// What is left to be read.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = self.0.get(text.count_bytes() + 1..)?;
        Some(text)
    }

    fn texts(&mut self, count: u32) -> Option<Vec<CString>> {
        (0..count).map(|_| self.text().map(CStr::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn text() -> impl Strategy<Value = CString> {
        "[^\u{0}]{0,40}".prop_map(|text| CString::new(text).unwrap())
    }

    fn program() -> impl Strategy<Value = Program> {
        let identity = (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..5)).prop_map(|(uid, gid, groups)| Identity {
            uid,
            gid,
            groups,
        });
        let words = ("[^\u{0}]{0,20}", "[^\u{0}]{0,20}", "[^\u{0}]{0,20}", "[^\u{0}]{0,20}");
        (vec(text(), 0..4), vec(text(), 0..8), vec(text(), 0..8), option::of(identity), words, any::<u32>()).prop_map(
            |(paths, arguments, environment, identity, (name, user, cwd, payload), kill_grace_ms)| Program {
                name,
                user,
                cwd: cwd.into(),
                payload: payload.into(),
                paths,
                arguments,
                environment,
                identity,
                kill_grace: Duration::from_millis(kill_grace_ms.into()),
                rlimits: Vec::new(),
                doors: Vec::new(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_says_the_whole_program(program in program()) {
            let message = program.to_message().unwrap();
            let read = Program::of_message(&message).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{program:?}"));
        }

        #[test]
        fn a_message_that_is_cut_off_is_none(program in program(), part in 0.0..1.0) {
            let message = program.to_message().unwrap();
            let cut = (message.len() as f64 * part) as usize;
            prop_assert!(Program::of_message(&message[..cut]).is_none());
        }

        #[test]
        fn what_does_not_fit_makes_no_message(program in program()) {
            let long = CString::new(vec![b'x'; MESSAGE_MAX]).unwrap();
            let too_long = Program { arguments: vec![long], ..program };
            prop_assert!(too_long.to_message().is_none());
            let (arguments, cwd) = (Vec::new(), "a\0b".into());
            let holds_zero = Program { arguments, cwd, ..too_long };
            prop_assert!(holds_zero.to_message().is_none());
        }
    }
}
