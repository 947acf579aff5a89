//! Ports that nobody listens on yet.

use std::{collections::HashSet, net::TcpListener, ops::Range, sync::Mutex};

/// Those that were given out.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Above the usual services, and below those that a kernel by default gives to whoever asks for any: between the choice and
/// the start of what is to listen, another test's proxy or connection could get one of these.
const PORTS: Range<u16> = 10_000..32_768;

/// A free port of 127.0.0.1, never the same twice.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && GIVEN.lock().expect("no test panicked in here").get_or_insert_default().insert(port) {
            return port;
        }
    }
}
