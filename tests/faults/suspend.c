/* A clock as a suspend of the machine leaves it: CLOCK_BOOTTIME, and no other, has gone on by what a file says in seconds.
 * Preloaded into a replica and what it starts. A timer on that clock is set to the machine's own moment. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static time_t suspended(void)
{
    const char *file = getenv("ORCH_TEST_SUSPENDED");
    char text[32] = "";
    int before = errno;
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        ssize_t length = read(fd, text, sizeof text - 1);
        text[length > 0 ? length : 0] = 0;
        close(fd);
    }
    errno = before;
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int outcome = (int)syscall(SYS_clock_gettime, clock, time);
    if (outcome == 0 && clock == CLOCK_BOOTTIME)
        time->tv_sec += suspended();
    return outcome;
}

/* Absolute timers of orch are on CLOCK_BOOTTIME. */
int timerfd_settime(int fd, int flags, const struct itimerspec *at, struct itimerspec *before)
{
    struct itimerspec own = *at;
    if ((flags & TFD_TIMER_ABSTIME) && own.it_value.tv_sec > suspended())
        own.it_value.tv_sec -= suspended();
    else if (flags & TFD_TIMER_ABSTIME)
        own.it_value = (struct timespec){ 0, own.it_value.tv_sec || own.it_value.tv_nsec };
    return (int)syscall(SYS_timerfd_settime, fd, flags, &own, before);
}
