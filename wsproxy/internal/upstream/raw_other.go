//go:build !unix

package upstream

import (
	"net"
	"time"
)

// A rawConn is nothing here: only on Unix a connection can be asked without waiting.
type rawConn struct{}

func (*rawConn) open(net.Conn) {}

// quiet takes an idle connection for open. If it is not, that is found out when the request is sent.
func (c *conn) quiet(time.Time) bool { return true }

// tryRead never knows.
func (c *conn) tryRead([]byte) (n int, err error, waits bool) { return 0, nil, true }

// canAsk reports that the request is written first, and the answer read then.
func (c *conn) canAsk() bool { return false }

// ask is for where canAsk is true.
func (c *conn) ask([]byte, []byte) (int, error) { panic("unreachable") }
