package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A Class says at which stage a connection failed.
type Class uint8

// The classes of an [Error].
const (
	ClassNoTarget    Class = Class(underway.ClassNoTarget)    // no target may serve, or Route had no pool
	ClassDial        Class = Class(underway.ClassDial)        // no connection to the target, or the PROXY header was not written
	ClassTLS         Class = Class(underway.ClassTLS)         // the TLS handshake with the target failed
	ClassClientGone  Class = Class(underway.ClassClientGone)  // the client went away first
	ClassShutdown    Class = Class(underway.ClassShutdown)    // the server was shut down or closed first
	ClassKeyLimit    Class = Class(underway.ClassKeyLimit)    // Limits.MaxPerKey is reached
	ClassProxyHeader Class = Class(underway.ClassProxyHeader) // the client's connection has no proper PROXY header
	ClassHandshake   Class = Class(underway.ClassHandshake)   // the client's TLS handshake failed, or no ClientHello came
	ClassPanic       Class = Class(underway.ClassPanic)       // a hook has panicked
)

// String returns the name of the class for logs.
func (c Class) String() string { return underway.Class(c).String() }

// An Error says why a client was not connected to a target.
type Error struct {
	Class   Class
	Pool    string // balancer.Config.Name; empty when the pool has none, or none was chosen
	Target  string // ID of the target of the last attempt; empty when none was asked
	Attempt int    // 1 for the first; 0 when no target was asked
	Err     error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("stream: %s: %s%v", e.Class, underway.Place(e.Pool, e.Target, e.Attempt), e.Err)
}

// apart returns e without its pool, target and attempt, for log records that have them as
// attributes.
func (e *Error) apart() *Error {
	c := *e
	c.Pool, c.Target, c.Attempt = "", "", 0
	return &c
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// outcome returns what health learns from the attempt. It learns nothing if the member was set to
// down or this machine was short of something.
func (e *Error) outcome() balancer.Class {
	if errors.Is(e.Err, errDown) || balancer.Shortage(e.Err) != "" {
		return balancer.Unjudged
	}
	return underway.Class(e.Class).Outcome()
}

// Errors of a connection that has no target yet.
var (
	errShutdown         = errors.New("the server is closed")
	errDown             = errors.New("the target was set to down")
	errConnectTimeout   = errors.New("not connected in time")
	errHandshakeTimeout = errors.New("no TLS handshake in time")
	errHelloTimeout     = errors.New("no TLS ClientHello in time")
	errHelloLength      = fmt.Errorf("no TLS ClientHello in %d bytes", maxHello)
	errGone             = errors.New("the client ended its side while waiting for a target")
	errNoPool           = errors.New("no pool for this client")
	errManyConns        = errors.New("too many connections for one key")
)

// because returns the reason why ctx ended, or err if it has not ended.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// refusal returns the error for a client that has no target yet and failed at the stage of class.
// If the server or the client has ended the connection, the error says so instead.
func refusal(ctx context.Context, class Class, err error) *Error {
	err = because(ctx, err)
	_, network := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, errShutdown):
		return &Error{Class: ClassShutdown, Err: err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), network && errors.Is(err, syscall.ECONNRESET):
		return &Error{Class: ClassClientGone, Err: err}
	default:
		return &Error{Class: class, Err: err}
	}
}
