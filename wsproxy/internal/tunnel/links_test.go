package tunnel_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A link makes one side of a tunnel: the end that the test holds, and the side that the tunnel
// gets, with bytes that were read ahead.
type link struct {
	name string
	half bool // the side has a CloseWrite that works
	kept bool // the tunnel is not to park it
	make func(t testing.TB, ahead []byte) (outer net.Conn, near tunnel.Side)
}

var (
	tcpLink  = link{"tcp", true, false, makeTCP}
	keptLink = link{"tcp that is kept", true, true, makeTCP}
	tlsLink  = link{"tls", true, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tlsPair(t)
		return outer, tunnel.Side{Conn: near, Early: ahead}
	}}
	bodyLink = link{"body", true, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tcpPair(t)
		return outer, tunnel.Side{Conn: newBody(near, ahead)}
	}}
	tlsBodyLink = link{"tls body", true, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tlsPair(t)
		return outer, tunnel.Side{Conn: newBody(near, ahead)}
	}}
	// What a Proxy gives for an upgrade over http.Transport.
	hiddenLink = link{"hidden", true, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tcpPair(t)
		return outer, tunnel.Side{Conn: tunnel.Body{ReadWriteCloser: newBody(near, ahead), Below: near}}
	}}
	hiddenTLSLink = link{"hidden tls", true, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tlsPair(t)
		return outer, tunnel.Side{Conn: tunnel.Body{ReadWriteCloser: newBody(near, ahead), Below: near}}
	}}
	plainLink = link{"plain", false, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tcpPair(t)
		return outer, tunnel.Side{Conn: struct{ io.ReadWriteCloser }{near}, Early: ahead}
	}}
	refusingLink = link{"refusing", false, false, func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := tcpPair(t)
		return outer, tunnel.Side{Conn: newBody(struct{ io.ReadWriteCloser }{near}, ahead)}
	}}
)

// narrow is l with little room in its sockets, on any system.
func (l link) narrow() link {
	wide := l.make
	l.make = func(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
		outer, near := wide(t, ahead)
		narrow(t, outer)
		narrow(t, near.Conn)
		return outer, near
	}
	return l
}

func narrow(t testing.TB, conn any) {
	switch c := conn.(type) {
	case *net.TCPConn:
		require.NoError(t, c.SetReadBuffer(256<<10)) // a size that is set does not grow
		require.NoError(t, c.SetWriteBuffer(256<<10))
	case *tls.Conn:
		narrow(t, c.NetConn())
	case tunnel.Body:
		narrow(t, c.Below)
	case *body:
		narrow(t, c.ReadWriteCloser)
	case struct{ io.ReadWriteCloser }:
		narrow(t, c.ReadWriteCloser)
	default:
		require.Failf(t, "no socket", "%T", conn)
	}
}

func makeTCP(t testing.TB, ahead []byte) (net.Conn, tunnel.Side) {
	outer, near := tcpPair(t)
	return outer, tunnel.Side{Conn: near, Early: ahead}
}

// engines are those that park and splice what they can, those that copy it, and those that park
// nothing.
var engines = map[string]func() *tunnel.Engine{
	"parking": func() *tunnel.Engine { return new(tunnel.Engine) },
	"copying": tunnel.NewCopyingEngine,
	"plain":   tunnel.NewPlainEngine,
}

// onEachEngine runs f with an engine of each kind.
func onEachEngine(t *testing.T, f func(t *testing.T, e *tunnel.Engine)) {
	t.Helper()
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) { f(t, engine()) })
	}
}

// body is what http.Transport gives as the Body of a 101: it has no deadlines, what was read
// ahead is inside, and its CloseWrite is there whether or not the connection has one.
type body struct {
	ahead *bufio.Reader
	io.ReadWriteCloser
}

func newBody(c io.ReadWriteCloser, ahead []byte) *body {
	if len(ahead) == 0 {
		return &body{nil, c}
	}
	return &body{bufio.NewReader(bytes.NewReader(ahead)), c}
}

func (b *body) Read(p []byte) (int, error) {
	if b.ahead != nil {
		n, err := b.ahead.Read(p)
		if n > 0 {
			return n, err
		}
		b.ahead = nil
	}
	return b.ReadWriteCloser.Read(p)
}

func (b *body) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("CloseWrite: %w", http.ErrNotSupported)
}

func tcpPair(t testing.TB) (outer, near net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	outer, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	for {
		near, err = l.Accept()
		require.NoError(t, err)
		if near.RemoteAddr().String() == outer.LocalAddr().String() {
			return outer, near
		}
		near.Close() // a stranger, who expected somebody else at this port
	}
}

func tlsPair(t testing.TB) (outer, near *tls.Conn) {
	t.Helper()
	tcpOuter, tcpNear := tcpPair(t)
	outer = tls.Client(tcpOuter, &tls.Config{InsecureSkipVerify: true})
	near = tls.Server(tcpNear, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	shaken := make(chan error, 1)
	go func() { shaken <- near.Handshake() }()
	require.NoError(t, outer.Handshake())
	require.NoError(t, <-shaken)
	return outer, near
}

// certificate is one that nobody should trust.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// opened is a running tunnel and its outer ends.
type opened struct {
	*tunnel.Tunnel
	engine          *tunnel.Engine
	client, backend net.Conn
	ended           <-chan tunnel.End
}

// open makes a tunnel over two links. When the test is over both ends are closed, and the tunnel
// must end.
func open(t testing.TB, c, b link, o tunnel.Options, early, glued []byte) *opened {
	t.Helper()
	client, clientSide := c.make(t, early)
	backend, backendSide := b.make(t, glued)
	e := new(tunnel.Engine)
	if c.kept || b.kept {
		e = tunnel.NewPlainEngine()
	}
	r := startOn(e, clientSide, backendSide, o)
	r.client, r.backend = client, backend
	t.Cleanup(func() {
		client.Close()
		backend.Close()
		shutdown(t, r.engine)
	})
	return r
}

// begun has the ends of the tunnels that begin has started and shutdown has not waited for.
var begun = struct {
	mu   sync.Mutex
	ends map[*tunnel.Engine][]<-chan struct{}
}{ends: make(map[*tunnel.Engine][]<-chan struct{})}

// begin starts a tunnel that shutdown waits for.
func begin(e *tunnel.Engine, client, backend tunnel.Side, o tunnel.Options) *tunnel.Tunnel {
	tun := e.Start(client, backend, o)
	begun.mu.Lock()
	defer begun.mu.Unlock()
	begun.ends[e] = append(begun.ends[e], tun.Ended())
	return tun
}

// shutdown waits for the tunnels of e, which must end by themselves.
func shutdown(t testing.TB, e *tunnel.Engine) {
	t.Helper()
	begun.mu.Lock()
	ends := begun.ends[e]
	delete(begun.ends, e)
	begun.mu.Unlock()
	awaitEnds(t, ends...)
	e.Wait()
}

func awaitEnds(t testing.TB, ends ...<-chan struct{}) {
	t.Helper()
	late := time.After(30 * time.Second)
	for _, end := range ends {
		select {
		case <-end:
		case <-late:
			require.Fail(t, "a tunnel does not end")
		}
	}
}

// isOver reports whether the tunnel has ended and its Done has returned.
func isOver(t *tunnel.Tunnel) bool {
	select {
	case <-t.Ended():
		return true
	default:
		return false
	}
}

// start runs a tunnel in an engine of its own.
func start(t testing.TB, client, backend tunnel.Side, o tunnel.Options) *opened {
	t.Helper()
	return startOn(new(tunnel.Engine), client, backend, o)
}

func startOn(e *tunnel.Engine, client, backend tunnel.Side, o tunnel.Options) *opened {
	ended := make(chan tunnel.End, 2) // a second Done would show
	o.Done = func(e tunnel.End) { ended <- e }
	return &opened{Tunnel: begin(e, client, backend, o), engine: e, ended: ended}
}

// end waits for the tunnel's end.
func (o *opened) end(t testing.TB) tunnel.End {
	t.Helper()
	select {
	case e := <-o.ended:
		return e
	case <-time.After(30 * time.Second):
		require.Fail(t, "the tunnel does not end")
		return tunnel.End{}
	}
}
