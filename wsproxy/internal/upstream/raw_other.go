//go:build !unix

package upstream

import (
	"net"
	"time"
)

// A rawConn is empty here: only on Unix can a connection be read without waiting.
type rawConn struct{}

func (*rawConn) open(net.Conn) {}

// quiet reports true: an idle connection counts as open. If it is not, sending the request fails.
func (c *conn) quiet(time.Time) bool { return true }

// tryRead reports that it cannot tell.
func (c *conn) tryRead([]byte) (n int, err error, waits bool) { return 0, nil, true }

// canAsk reports false: the request is written first, and the answer is read after that.
func (c *conn) canAsk() bool { return false }

// ask is never called, because canAsk reports false.
func (c *conn) ask([]byte, []byte) (int, error) { panic("unreachable") }
