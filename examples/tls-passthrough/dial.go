package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// dial connects to a target for a client. The server writes the PROXY header.
func dial(ctx context.Context, m *balancer.Member) (net.Conn, error) {
	network, addr := m.Endpoint()
	conn, err := (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return ready(ctx, conn, m.Label("speaks"))
}

// check connects to a target as for a client, but for itself: its PROXY header has no address.
func check(ctx context.Context, t balancer.Target) error {
	connect := (&net.Dialer{}).DialContext
	if t.Labels["proxy"] == "yes" {
		connect = (&proxyproto.Dialer{Dial: connect}).DialContext
	}
	network, addr := t.Endpoint()
	conn, err := connect(ctx, network, addr)
	if err == nil {
		conn, err = ready(ctx, conn, t.Labels["speaks"])
	}
	if err != nil {
		return err
	}
	return conn.Close()
}

// ready returns a connection on which TLS comes next. If it fails, the connection is closed.
func ready(ctx context.Context, conn net.Conn, speaks string) (net.Conn, error) {
	if speaks != "postgres" {
		return conn, nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := askForTLS(conn)
	if !stop() || err != nil {
		conn.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	return conn, nil
}
