//! A network of a row's own: the server in one network namespace, each node in another, a pair of interfaces between the
//! two, and a packet filter on the node's side. Root only.
//!
//! No namespace has a name: it lives for as long as this process holds its descriptor or a process is in it, and takes
//! its interfaces and rules along. So nothing is left behind, whatever becomes of a row. The addresses are those that are
//! set aside for documentation, and nothing is routed anywhere else.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpStream as StdStream},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::TcpStream;

use crate::support::{Answer, Elsewhere, http_get_over};

const SERVER: &str = "192.0.2.1";
const CLIENTS: &str = "192.0.2.0/24";

/// The server's side.
#[derive(Debug)]
pub(crate) struct Network {
    server: Namespace,
    nodes: u8,
}

impl Network {
    /// With nobody in it.
    pub(crate) fn new() -> Self {
        let server = Namespace::new();
        // The address is there before the first link is.
        server.run(&format!("ip link set lo up && ip address add {SERVER} dev lo"));
        Self { server, nodes: 0 }
    }

    /// Where a server is that is started in it.
    pub(crate) fn for_server(&self) -> Elsewhere {
        Elsewhere { enter: self.server.enter(), address: SERVER.to_owned(), clients: CLIENTS.to_owned() }
    }

    /// A further place in the network, with the server as its only neighbour.
    pub(crate) fn add_place(&mut self) -> Arc<Place> {
        self.nodes += 1;
        let (namespace, number) = (Namespace::new(), self.nodes);
        let address = format!("192.0.2.{}", 10 + number);
        let link = format!("node{number}");
        self.server.run(&format!(
            "ip link add {link} type veth peer name wire netns {} && ip link set {link} up && \
             ip route add {address} dev {link} src {SERVER}",
            namespace.path()
        ));
        namespace.run(&format!(
            "ip link set lo up && ip address add {address} peer {SERVER} dev wire && ip link set wire up && \
             iptables -A OUTPUT -d {SERVER} -p tcp --syn && \
             iptables -N out && iptables -A OUTPUT -d {SERVER} -j out && \
             iptables -N in && iptables -A INPUT -s {SERVER} -j in"
        ));
        Arc::new(Place(namespace))
    }
}

/// A node's place in the network, and what becomes of what passes between it and the server.
#[derive(Debug)]
pub(crate) struct Place(Namespace);

impl Place {
    /// The program and the words that start another one here.
    pub(crate) fn enter(&self) -> Vec<String> {
        self.0.enter()
    }

    /// Nothing passes in either direction, and nobody is told.
    pub(crate) fn black_hole(&self) {
        self.0.run("iptables -A out -j DROP && iptables -A in -j DROP");
    }

    /// Requests arrive, answers do not.
    pub(crate) fn drop_answers(&self) {
        self.0.run("iptables -A in -j DROP");
    }

    /// As [`Place::drop_answers`], and the server hears that nobody is there for them.
    pub(crate) fn refuse_answers(&self) {
        self.0.run("iptables -I in -p tcp -j REJECT --reject-with tcp-reset");
    }

    /// Whatever is sent is answered by the end of its connection, as by a firewall or a host whose server is down.
    pub(crate) fn reset(&self) {
        self.0.run("iptables -I out -p tcp -j REJECT --reject-with tcp-reset");
    }

    /// Everything passes.
    pub(crate) fn heal(&self) {
        self.0.run("iptables -F out && iptables -F in");
    }

    /// How often a connection was asked for, with what TCP sent again.
    pub(crate) fn connects(&self) -> u64 {
        let listed = self.0.run("iptables -n -v -x -L OUTPUT 1");
        let packets = listed.split_whitespace().next().and_then(|packets| packets.parse().ok());
        packets.unwrap_or_else(|| panic!("no count of packets: {listed:?}"))
    }

    /// GET from a replica here.
    pub(crate) async fn get(&self, listen: SocketAddr, target: &str) -> io::Result<Answer> {
        let stream = self.0.inside(move || StdStream::connect(listen))?;
        stream.set_nonblocking(true)?;
        http_get_over(TcpStream::from_std(stream)?, listen, target).await
    }
}

/// A network namespace.
#[derive(Debug)]
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        // Of a thread that is about to end: every other stays where it is.
        Self(std::thread::spawn(make).join().expect("a thread without a panic").expect("a network namespace"))
    }

    /// Does something in it; a socket that is made there stays there.
    fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a network namespace that can be entered");
            what()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("a thread without a panic"))
    }

    fn path(&self) -> String {
        let fd = self.0.as_raw_fd().to_string();
        Path::new("/proc").join(std::process::id().to_string()).join("fd").join(fd).display().to_string()
    }

    fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path()), "--".to_owned()]
    }

    /// Runs a command line of the shell in it, which must succeed; what it prints.
    fn run(&self, line: &str) -> String {
        let output = self.inside(|| Command::new("sh").args(["-c", line]).output()).expect("a shell");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
