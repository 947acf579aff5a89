//! Ports that nobody listens on yet.

use std::{collections::HashSet, net::TcpListener, sync::Mutex};

/// Those that were given out.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Below these are services that may be started any time.
const LOWEST: u16 = 10_000;

/// A free port of 127.0.0.1, never the same twice, and none that the kernel gives to whoever asks for any: between here and
/// the start of what is to listen, another test's proxy or connection could have got it.
pub(crate) fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the kernel's own ports");
    let kernels_first: u16 = range.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a port");
    assert!(
        kernels_first > LOWEST + 1_000,
        "the kernel leaves no ports to a test: net.ipv4.ip_local_port_range = {range}"
    );
    loop {
        let port = rand::random_range(LOWEST..kernels_first);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && GIVEN.lock().expect("no test panicked in here").get_or_insert_default().insert(port) {
            return port;
        }
    }
}
