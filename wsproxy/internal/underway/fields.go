package underway

import (
	"log/slog"
	"reflect"
)

// HoldsNil reports whether v is an interface that is not nil but holds a nil pointer or func.
func HoldsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// LacksHandler reports whether l panics at its first record. A nil l counts as a good one.
func LacksHandler(l *slog.Logger) bool {
	return l != nil && (l.Handler() == nil || HoldsNil(l.Handler()))
}
