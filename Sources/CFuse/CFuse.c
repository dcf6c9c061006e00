#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "CFuse.h"

_Thread_local struct cfuse_thread cfuse_this_thread;

int cfuse_receive_descriptor(int socket) {
    char byte;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t count;
    do count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (count < 0 && errno == EINTR);
    if (count < 0) return -errno;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (count == 0 || !header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return -ENOMSG;
    int descriptor;
    memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
    return descriptor;
}

int64_t cfuse_device_minor(const char *path) {
    struct statx result;
    if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &result) != 0) return -errno;
    return result.stx_dev_minor;
}

int cfuse_close_events(void) {
    int group = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS,
                              O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_LARGEFILE | O_NOATIME);
    return group < 0 ? -errno : group;
}

int cfuse_watch_closes(int group, const char *path) {
    return fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE, AT_FDCWD, path) == 0 ? 0 : -errno;
}

int cfuse_read_closes(int group, struct cfuse_close *closes, int most, bool *dropped) {
    struct fanotify_event_metadata events[64];
    size_t room = (size_t)(most < 64 ? most : 64) * sizeof events[0];
    ssize_t length = read(group, events, room);
    if (length < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    int count = 0;
    struct fanotify_event_metadata *event = events;
    for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
        if (event->fd < 0) {
            if (event->mask & FAN_Q_OVERFLOW) *dropped = true;
            continue;
        }
        struct statx result;
        // DONT_SYNC: what the kernel knows will do; asking the server would be asking ourselves.
        int known = statx(event->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &result) == 0;
        closes[count].inode = known ? result.stx_ino : 0;
        closes[count].device_minor = known ? result.stx_dev_minor : 0;
        closes[count].descriptor = event->fd;
        count++;
    }
    return count;
}
