//! The system calls that have no safe wrapper: fork, clone into a cgroup, pidfds, exec, the closing of descriptors.
//!
//! Owns nearly all `unsafe` of the house. Every process that calls [`fork`] or [`clone`] has one thread, which is what
//! makes it sound to go on with ordinary code in the child. Decides nothing.
#![expect(unsafe_code, reason = "these calls have no safe wrapper, and the promises of this room rest on them")]

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    unistd::{ForkResult, Pid},
};

/// `CLONE_INTO_CGROUP` of `linux/sched.h`, beyond 32 bits and so not yet usable from `libc`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks; the child runs `child` and ends with its status. Only the parent comes back.
pub(super) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => exit(child()),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Like [`fork`], with namespaces (`CLONE_NEW…`) and, if given, born in that cgroup.
pub(super) fn clone(namespaces: i32, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: `clone_args` is plain numbers, for which all zeros is the documented default.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.cast_unsigned());
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack this is a fork: the child goes on here on its own copy of memory.
    // The process has one thread. The kernel reads `arguments` and does not keep it.
    let outcome = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match Errno::result(outcome)? {
        0 => exit(child()),
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit status.
    Code(i32),
    /// By this signal, which may be one that has no name.
    Signal(i32),
}

/// Reaps one child that has died. `None`: none has, as yet. An error of `ECHILD`: there is no child at all.
pub(super) fn reap() -> nix::Result<Option<(Pid, End)>> {
    let mut status = 0;
    // SAFETY: writes the status where it is told to. (The wrapper of `nix` loses the status of real-time signals.)
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    let end = if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Code(libc::WEXITSTATUS(status))
    };
    Ok((pid > 0).then_some((Pid::from_raw(pid), end)))
}

/// Ends this process without running anything of the process that it was forked from.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing is run and nothing is flushed, on purpose.
    unsafe { libc::_exit(status) }
}

/// A descriptor for the process, which no later process with the same pid can take over.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes and returns numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Signals the process of a pidfd.
pub(super) fn pidfd_signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers and a null pointer, which stands for an ordinary signal.
    let outcome = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as i32, none, 0) };
    Errno::result(outcome)?;
    Ok(())
}

/// Closes every descriptor from `first` on. For a fresh child only, which never again touches what its parent had open.
pub(super) fn close_from(first: RawFd) {
    if close_range(first, 0) {
        return;
    }
    for fd in open_descriptors().filter(|fd| *fd >= first) {
        // SAFETY: by the contract of this function nobody uses the number again.
        unsafe { libc::close(fd) };
    }
}

/// Sees to it that an exec closes every descriptor from `first` on.
pub(super) fn close_from_on_exec(first: RawFd) {
    if close_range(first, libc::CLOSE_RANGE_CLOEXEC) {
        return;
    }
    for fd in open_descriptors().filter(|fd| *fd >= first) {
        // SAFETY: sets a flag of a number; harmless where it is not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

fn close_range(first: RawFd, flags: u32) -> bool {
    // SAFETY: takes numbers; what it closes is the caller's contract.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first.cast_unsigned(), u32::MAX, flags) };
    outcome == 0
}

fn open_descriptors() -> impl Iterator<Item = RawFd> {
    let names = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.into_iter()
}

/// Makes `fd` the descriptor `number`, which stays open over an exec.
pub(super) fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    let flags = if fd.as_raw_fd() == number {
        // dup2 onto itself would leave close-on-exec as it is.
        // SAFETY: sets a flag of a number.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: whoever owned `number` before is gone: this runs in fresh children, for the standard descriptors.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    Errno::result(flags)?;
    Ok(())
}

/// Closes everything but the standard descriptors and `kept`, which come back, close-on-exec, as 3 and so on. For a
/// fresh child only, which never goes back to the code of its parent.
pub(super) fn keep_only<const N: usize>(kept: [BorrowedFd<'_>; N]) -> io::Result<[OwnedFd; N]> {
    const FIRST: RawFd = 3;
    let beyond = FIRST + N as RawFd;
    // Copies out of the way first, so that none is overwritten by another's new place.
    let free = kept.iter().map(|fd| fd.as_raw_fd() + 1).fold(beyond, RawFd::max);
    let mut copies = [0; N];
    for (copy, fd) in copies.iter_mut().zip(kept) {
        *copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(free))?;
    }
    for (place, copy) in (FIRST..).zip(copies) {
        // SAFETY: whoever owned `place` is of the parent, and this process never goes back to its code.
        Errno::result(unsafe { libc::dup3(copy, place, libc::O_CLOEXEC) })?;
    }
    close_from(beyond);
    // SAFETY: made just now, and owned by nobody else.
    Ok(std::array::from_fn(|index| unsafe { OwnedFd::from_raw_fd(FIRST + index as RawFd) }))
}

/// Takes a descriptor that arrived with a message, or that this process was started with.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: called once for each number, which the kernel has just given us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets every signal to its default and blocks none, as a program expects to be started.
pub(super) fn reset_signals() {
    // The kernel's own record, all zeros: the default action. The C library refuses to touch two signals that it uses
    // itself, and its `posix_spawn` starts programs, the spawner among them, with those two ignored.
    let default = [0_u64; 8];
    let set_size = size_of::<u64>();
    for signal in 1..=64 {
        // SAFETY: the kernel reads at most as much as `default` holds, and the default action runs no code of ours.
        // KILL and STOP refuse, rightly.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), set_size);
        };
    }
    let _cannot_fail = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Ignores a signal.
pub(super) fn ignore_signal(signal: Signal) {
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
}

/// Becomes the program: the first of `paths` that can be executed, as `execvpe` does, but never by way of a shell.
/// Comes back only with an error.
pub(super) fn exec(paths: &[CString], arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut worst = Errno::ENOENT;
    for path in paths {
        // SAFETY: a terminated text and two arrays of such, each ended by a null pointer, alive over the call.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match Errno::last() {
            // Not here; it may be in the next directory. That it was there and forbidden is what is worth saying.
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            error => return error,
        }
    }
    if paths.len() == 1 && worst == Errno::ENOENT { Errno::last() } else { worst }
}
