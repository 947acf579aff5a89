//! Ports that nobody listens on yet.

use std::{collections::HashSet, net::TcpListener, sync::Mutex};

/// Those that were given out: the kernel may offer one again before it is used.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A free port of 127.0.0.1, never the same twice.
pub(crate) fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if GIVEN.lock().expect("no test panicked in here").get_or_insert_default().insert(port) {
            return port;
        }
    }
}
