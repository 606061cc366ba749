package balancer_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

func TestShortage(t *testing.T) {
	dial := func(err error) error {
		return fmt.Errorf("attempt: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)})
	}
	tests := map[string]struct {
		err  error
		want string
	}{
		"none":          {nil, ""},
		"other":         {errors.New("too many open files"), ""},
		"refused":       {dial(syscall.ECONNREFUSED), ""},
		"EMFILE":        {dial(syscall.EMFILE), "file descriptors"},
		"ENFILE":        {dial(syscall.ENFILE), "file descriptors"},
		"EADDRNOTAVAIL": {dial(syscall.EADDRNOTAVAIL), "local ports"},
		"ENOBUFS":       {dial(syscall.ENOBUFS), "memory"},
		"ENOMEM":        {dial(syscall.ENOMEM), "memory"},
		"lookup": {dial(&net.DNSError{Name: "a.example",
			Err: "dial udp 127.0.0.1:53: socket: " + syscall.EMFILE.Error()}), "file descriptors"},
		"unknown name": {dial(&net.DNSError{Name: "a.example", Err: "no such host", IsNotFound: true}), ""},
	}
	if runtime.GOOS == "windows" {
		for number, want := range map[syscall.Errno]string{
			10024: "file descriptors", 10049: "local ports", 10055: "memory", 10061: "",
		} {
			tests[fmt.Sprint("WSA ", int(number))] = struct {
				err  error
				want string
			}{dial(number), want}
		}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, balancer.Shortage(tt.err))
		})
	}
}

func TestClientNetwork(t *testing.T) {
	tests := map[string]struct{ a, want string }{
		"IPv4":             {"192.0.2.7", "192.0.2.7"},
		"mapped":           {"::ffff:192.0.2.7", "192.0.2.7"},
		"IPv6":             {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
		"IPv6 with a zone": {"fe80::1%eth0", "fe80::"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, netip.MustParseAddr(tt.want), balancer.ClientNetwork(netip.MustParseAddr(tt.a)))
		})
	}
	require.False(t, balancer.ClientNetwork(netip.Addr{}).IsValid())
}

// What an observer is told of a lease has the lease's kind and the caller's words.
func TestLease_B5_Outcome(t *testing.T) {
	for _, tunnel := range []bool{false, true} {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		var got []balancer.Outcome
		p.Observe(released(func(o balancer.Outcome) { got = append(got, o) }))
		l, err := p.Acquire(t.Context(), &balancer.Request{Tunnel: tunnel})
		require.NoError(t, err)
		told := balancer.Outcome{Class: balancer.HeaderTimeout, Began: time.Now(), Client: netip.MustParseAddr("192.0.2.7")}
		l.Release(told)
		told.Tunnel = tunnel
		require.Equal(t, []balancer.Outcome{told}, got)
	}
}

type released func(balancer.Outcome)

func (f released) Released(_ *balancer.Member, o balancer.Outcome) { f(o) }
func (released) Changed(*balancer.Member, balancer.State)          {}
