package health

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/stickylb/stickylb/balancer"
)

// A Check asks one target whether it can serve. A nil error means that it can.
//
// Check is called concurrently, for different targets. It must return soon after ctx has
// ended: [Registry.Run] waits for it. The error's text is what people read in the status, so
// it should say what went wrong and nothing else; errors of the network and of TLS that are
// returned as they are, or wrapped, are put into plain words by the registry.
type Check interface {
	Check(ctx context.Context, t balancer.Target) error
}

// Func is a [Check] made of a function.
type Func func(ctx context.Context, t balancer.Target) error

// Check implements [Check].
func (f Func) Check(ctx context.Context, t balancer.Target) error { return f(ctx, t) }

// A DialFunc opens a connection, as [net.Dialer.DialContext] does. Targets that expect
// something in front of every connection, such as a PROXY header, get a DialFunc that sends it.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// TCP is a [Check] that opens a connection and closes it again. It does the same for every
// scheme. The zero value is ready to use.
type TCP struct {
	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c TCP) Check(ctx context.Context, t balancer.Target) error {
	conn, err := begin(ctx, t, c.Dial, nil).connect()
	if err != nil {
		return err
	}
	conn.Close()
	return nil
}

// TLS is a [Check] that opens a connection, does a TLS handshake that verifies the target's
// certificate, and closes the connection. It does the same for every scheme, so that it also
// serves tcp targets behind which TLS is spoken. The zero value is ready to use.
type TLS struct {
	// Config is used for the handshake. Nil means the zero [tls.Config]. An empty ServerName
	// means the target's host. It is cloned and never changed.
	Config *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c TLS) Check(ctx context.Context, t balancer.Target) error {
	a := begin(ctx, t, c.Dial, c.Config)
	conn, err := a.connect()
	if err != nil {
		return err
	}
	secured, err := a.secure(conn)
	if err != nil {
		return err
	}
	secured.Close()
	return nil
}
