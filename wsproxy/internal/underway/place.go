package underway

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// Place returns the part of an error's text that says where an attempt was made: the target and the
// pool. Empty names are left out. If there is a name, the text ends with a colon and a space.
func Place(pool, target string, attempt int) string {
	switch {
	case target == "" && pool == "":
		return ""
	case target == "":
		return fmt.Sprintf("pool %q: ", pool)
	case pool == "":
		return fmt.Sprintf("target %q, attempt %d: ", target, attempt)
	default:
		return fmt.Sprintf("target %q of pool %q, attempt %d: ", target, pool, attempt)
	}
}

// PlaceAttrs returns the same as attributes of a log record.
func PlaceAttrs(pool, target string, attempt int) []slog.Attr {
	var attrs []slog.Attr
	if pool != "" {
		attrs = append(attrs, slog.String("pool", pool))
	}
	if target != "" {
		attrs = append(attrs, slog.String("target", target), slog.Int("attempt", attempt))
	}
	return attrs
}

// AddrText returns the text of an address for logs. It is empty if the address is not known.
func AddrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
