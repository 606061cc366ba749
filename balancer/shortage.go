package balancer

import (
	"errors"
	"net"
	"strings"
	"syscall"
)

// A shortage is an error of the operating system and the resource that it reports as used up.
type shortage struct {
	err error
	of  string
}

// shortages are those that systems have in common.
var shortages = []shortage{
	{syscall.EMFILE, fileDescriptors},
	{syscall.ENFILE, fileDescriptors},
	{syscall.EADDRNOTAVAIL, localPorts},
	{syscall.ENOBUFS, memory},
	{syscall.ENOMEM, memory},
}

const (
	fileDescriptors = "file descriptors"
	localPorts      = "local ports"
	memory          = "memory"
)

// Shortage returns the resource of this machine whose lack caused err: "file descriptors", "local
// ports" or "memory". It returns "" if err is nil or has another cause.
//
// A shortage says nothing about the target: without descriptors a load balancer would find every
// target dead at once. Another target does not help either, because the machine stays the same. An
// attempt that failed because of a shortage has the class [Unjudged].
//
// An error that wraps one of the system's is recognised, and so is a failed lookup of a name.
// EADDRNOTAVAIL counts as a shortage of ports. A dial may also fail with it because this machine
// cannot reach the address at all, for example without IPv6.
func Shortage(err error) string {
	if err == nil {
		return ""
	}
	for _, s := range shortages {
		if errors.Is(err, s.err) {
			return s.of
		}
	}
	for _, s := range systemShortages {
		if errors.Is(err, s.err) {
			return s.of
		}
	}
	return lookupShortage(err)
}

// lookupShortage looks at the text of a failed lookup: a [net.DNSError] keeps nothing else of the
// error that caused it.
func lookupShortage(err error) string {
	lookup, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return ""
	}
	for _, s := range shortages {
		if strings.HasSuffix(lookup.Err, s.err.Error()) {
			return s.of
		}
	}
	return ""
}
