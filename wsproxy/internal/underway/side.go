package underway

import (
	"net"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// ClientSide returns the client's side of a tunnel. early has the bytes that were already read from
// conn. If conn is a proxyproto.Conn whose header has been read, the side is the connection below
// it, which can be parked.
func ClientSide(conn net.Conn, early []byte) tunnel.Side {
	side := tunnel.Side{Conn: conn, Early: early}
	told, ok := conn.(*proxyproto.Conn)
	if !ok {
		return side
	}
	below, bare := told.Unwrap()
	if !bare { // then there are bytes to read
		rest := make([]byte, 4<<10)
		n, _ := told.Read(rest)
		side.Early = append(side.Early, rest[:n]...)
		below, bare = told.Unwrap()
	}
	if bare {
		side.Conn = below
	}
	return side
}
