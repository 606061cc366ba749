package underway

import (
	"fmt"

	"github.com/stickylb/stickylb/balancer"
)

// A Class says at which stage a request or a connection failed. Packages wsproxy and stream each
// export a type with the classes that they use, because pkg.go.dev would not show the constants of
// an alias. This type has the numbers, the names and the outcomes of both.
type Class uint8

// The classes. The packages that export them say what they mean.
const (
	ClassRequest Class = iota
	ClassNoTarget
	ClassDial
	ClassTLS
	ClassWrite
	ClassHeader
	ClassHeaderTimeout
	ClassUpgrade
	ClassBody
	ClassClientGone
	ClassLimit
	ClassShutdown
	ClassKeyLimit
	ClassProxyHeader
	ClassHandshake
	ClassPanic
)

var classNames = [...]string{
	ClassRequest:       "request",
	ClassNoTarget:      "no target",
	ClassDial:          "dial",
	ClassTLS:           "tls",
	ClassWrite:         "write",
	ClassHeader:        "header",
	ClassHeaderTimeout: "header timeout",
	ClassUpgrade:       "upgrade",
	ClassBody:          "body",
	ClassClientGone:    "client gone",
	ClassLimit:         "limit",
	ClassShutdown:      "shutdown",
	ClassKeyLimit:      "key limit",
	ClassProxyHeader:   "proxy header",
	ClassHandshake:     "handshake",
	ClassPanic:         "panic",
}

// String returns the name of the class for logs.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// Outcome returns what health learns about the target when an attempt fails with this class.
func (c Class) Outcome() balancer.Class {
	switch c {
	case ClassDial:
		return balancer.ConnectFailed
	case ClassTLS:
		return balancer.TLSFailed
	case ClassWrite:
		return balancer.WriteFailed
	case ClassHeader:
		return balancer.HeaderFailed
	case ClassHeaderTimeout:
		return balancer.HeaderTimeout
	case ClassUpgrade:
		return balancer.UpgradeFailed
	case ClassBody:
		return balancer.BodyFailed
	case ClassClientGone:
		return balancer.ClientGone
	default:
		return balancer.Unjudged
	}
}
