package balancer

// Panic says what the pool does for new sessions when few targets are left.
type Panic uint8

// What to do when the share of serving targets is below Config.PanicThreshold.
const (
	PanicOff    Panic = iota // nothing: the targets that are left serve, and without any there is none
	PanicOpen                // use reserved ready targets too, and unhealthy ones if need be
	PanicClosed              // refuse new sessions, unless a backup target serves
)

var panicNames = [...]string{"off", "open", "closed"}

// String returns "off", "open" or "closed".
func (p Panic) String() string { return nameOf(panicNames[:], uint8(p)) }

// MarshalText implements [encoding.TextMarshaler] with the name.
func (p Panic) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Panic) UnmarshalText(text []byte) error {
	return parseName(panicNames[:], string(text), (*uint8)(p))
}

// defaultPanicThreshold is the percentage below which a pool panics.
const defaultPanicThreshold = 50
