package health

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A Check asks one target whether it can serve. A nil error means that it can.
//
// Check is called concurrently, for different targets. It must return soon after ctx has
// ended: [Registry.Run] waits for it. The error's text is what people read in the status, so
// it should say what went wrong and nothing else; errors of the network and of TLS that are
// returned as they are, or wrapped, are put into plain words by the registry. An error that wraps
// [ErrReserved] is an answer and no failure.
type Check interface {
	Check(ctx context.Context, t balancer.Target) error
}

// ErrReserved is the error of a [Check] whose target answers and asks for no new sessions: it is
// ready to shut down, not ready yet, or full. The target becomes [balancer.Reserved]: it serves the
// sessions that are bound to it, and nobody else. Wrap it to say why:
//
//	fmt.Errorf("the job queue is full: %w", health.ErrReserved)
//
// One probe decides, in both directions: a healthy or unknown target is reserved at once, and a
// reserved one is healthy again at its next success. Failures in between count as for a healthy
// target, and each such answer starts their count anew. An unhealthy target stays unhealthy: for it
// the answer counts as a failure, because its sessions have moved and it has yet to show that it
// can serve.
var ErrReserved = errors.New("health: " + boundOnly)

const boundOnly = "bound sessions only"

// Func is a [Check] made of a function.
type Func func(ctx context.Context, t balancer.Target) error

// Check implements [Check].
func (f Func) Check(ctx context.Context, t balancer.Target) error { return f(ctx, t) }

// A DialFunc opens a connection, as [net.Dialer.DialContext] does. The network and the address are
// those of [balancer.Target.Endpoint], so the network may be "unix". Targets that expect something
// in front of every connection, such as a PROXY header, get a DialFunc that sends it.
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
//
// With TLS 1.3 a target says only after the handshake that it does not take the client's
// certificate, or the lack of one. So the check waits for that, for at most half a second, where
// the target asked for a certificate.
type TLS struct {
	// Config is used for the handshake, with the target's ServerName and Certificate in it if
	// it has them; see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config]. It is
	// cloned and never changed.
	Config *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c TLS) Check(ctx context.Context, t balancer.Target) error {
	a := begin(ctx, t, c.Dial, c.Config)
	asked := a.noteCertificateRequest()
	conn, err := a.connect()
	if err != nil {
		return err
	}
	secured, err := a.secure(conn)
	if err != nil {
		return err
	}
	defer secured.Close()
	if *asked && secured.ConnectionState().Version >= tls.VersionTLS13 {
		return a.awaitVerdict(secured)
	}
	return nil
}

// noteCertificateRequest returns whether the target will have asked for the client's certificate,
// once there has been a handshake.
func (a *attempt) noteCertificateRequest() *bool {
	asked := new(bool)
	choose := a.config.GetClientCertificate
	certificates := a.config.Certificates
	a.config = a.config.Clone()
	a.config.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		*asked = true
		if choose != nil {
			return choose(r)
		}
		for i := range certificates {
			if r.SupportsCertificate(&certificates[i]) == nil {
				return &certificates[i], nil
			}
		}
		return new(tls.Certificate), nil // none
	}
	return asked
}

// verdictWait is how long a target has to refuse the client's certificate.
const verdictWait = 500 * time.Millisecond

// awaitVerdict fails if the target ends the connection with an alert or a reset (RFC 8446, section
// 4.4.2.4). A target that says nothing has taken the certificate, and so has one that begins to
// speak.
func (a *attempt) awaitVerdict(conn *tls.Conn) error {
	wait := verdictWait
	if deadline, ok := a.ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	conn.SetReadDeadline(time.Now().Add(wait))
	_, err := conn.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return a.fail(err, "TLS handshake not done")
}
