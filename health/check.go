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
// Check is called concurrently, for different targets. It must return soon after ctx has ended,
// because [Registry.Run] waits for it. The status shows the error's text, so the text should say
// what went wrong. Errors of the network and of TLS may be returned as they are or wrapped: the
// registry has words for them. At most 1,000 bytes of any other text are used. An error that wraps
// [ErrReserved] is an answer and not a failure.
type Check interface {
	Check(ctx context.Context, t balancer.Target) error
}

// ErrReserved is the error of a [Check] whose target answers, but wants no new sessions: it is
// about to shut down, not ready yet, or full. The target becomes [balancer.Reserved]: it serves
// only the sessions that are bound to it. Wrap ErrReserved to say why:
//
//	fmt.Errorf("the job queue is full: %w", health.ErrReserved)
//
// One probe decides, in both directions. A healthy or unknown target becomes reserved at once. A
// reserved target becomes healthy at its next success. Failures of a reserved target count as for a
// healthy one, and each reserving answer resets their count. An unhealthy target stays unhealthy:
// the answer counts as a failure, because its sessions have moved, and it has not shown yet that it
// can serve.
var ErrReserved = errors.New("health: " + boundOnly)

const boundOnly = "bound sessions only"

// Func is a [Check] that calls the function.
type Func func(ctx context.Context, t balancer.Target) error

// Check implements [Check].
func (f Func) Check(ctx context.Context, t balancer.Target) error { return f(ctx, t) }

// A DialFunc opens a connection, as [net.Dialer.DialContext] does. Network and address are those of
// [balancer.Target.Endpoint], so the network may be "unix". If targets expect something at the
// start of every connection, such as a PROXY header, the DialFunc sends it.
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
// certificate, and closes the connection. It does so for every scheme, so it also suits tcp targets
// that speak TLS. The zero value is ready to use.
//
// With TLS 1.3 a target refuses a client's certificate, or its absence, only after the handshake.
// So if the target asked for a certificate, the check waits for a refusal, for at most half a
// second.
type TLS struct {
	// Config is used for the handshake. The target's ServerName and Certificate replace those of
	// Config if they are set, see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config].
	// Config is cloned and never changed.
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

func (TCP) networked()          {}
func (TLS) networked()          {}
func (HTTP) networked()         {}
func (WebSocket) networked()    {}
func (GRPC) networked()         {}
func (Conversation) networked() {}

// noteCertificateRequest returns a bool that becomes true if the target asks for the client's
// certificate during the handshake.
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

// awaitVerdict returns an error if the target ends the connection with an alert or a reset (RFC
// 8446, section 4.4.2.4). A target that says nothing, or that begins to speak, has accepted the
// certificate.
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
