package cookie

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"sync/atomic"
)

// An InsecureTable is a [Codec] whose values stand for a target and for nothing else. The sticky
// modules of nginx, HAProxy's cookies and the routes of Java application servers are such values.
// The zero value is an empty table.
//
// It is insecure because the values are not secret. A client can read or guess the value of another
// target and so choose its target. It can find the address behind a digest, and use a value for
// ever. Scopes, issue times and carried attributes are not kept. Use an InsecureTable to take over
// sessions from another balancer or to share them with it, and [Sealed] otherwise.
//
// It is safe for concurrent use. Encode and Decode are one look-up each and allocate nothing.
type InsecureTable struct{ table }

// A table maps target IDs to values. An update replaces the pointer, so that no request sees half
// of an update.
type table struct {
	maps atomic.Pointer[tableMaps]
}

// tableMaps never change. A value is found by its hash under a random seed, and is then compared in
// constant time: some values depend on a key, and a client must not guess one octet by octet from
// response times.
type tableMaps struct {
	toValue map[string]string // by target ID
	seed    maphash.Seed
	toID    map[uint64]tableEntry // by the hash of the value
}

type tableEntry struct{ value, id string }

// index fills toID. It chooses another seed if two hashes collide.
func (m *tableMaps) index() {
	for len(m.toID) < len(m.toValue) {
		m.seed = maphash.MakeSeed()
		m.toID = make(map[uint64]tableEntry, len(m.toValue))
		for id, value := range m.toValue {
			m.toID[maphash.String(m.seed, value)] = tableEntry{value, id}
		}
	}
}

// Store replaces the table by a copy of idToValue. Call it together with the update of the pool's
// targets. If targets are added, call it before that update, so that no target without a value is
// picked. Removed targets may stay in the table.
//
// Store returns an error for an empty ID or value, for a value that several targets have, for a
// value that a cookie cannot have, and for a value in quotes, because clients add and remove
// quotes. The table then stays as it was.
func (t *table) Store(idToValue map[string]string) error {
	m := &tableMaps{toValue: maps.Clone(idToValue)}
	taken := make(map[string]string, len(idToValue))
	for id, value := range m.toValue {
		if id == "" {
			return errors.New("cookie: empty target ID in the table")
		}
		if value == "" || len(value) > MaxSize || !isValue(value) || trim(value) != value || Unquote(value) != value {
			return fmt.Errorf("cookie: value of target %q cannot be a cookie's value", id)
		}
		if other, ok := taken[value]; ok {
			return fmt.Errorf("cookie: targets %q and %q have the same value", min(id, other), max(id, other))
		}
		taken[value] = id
	}
	m.index()
	t.maps.Store(m)
	return nil
}

// Encode implements [Codec]. It returns [ErrUnknownTarget] if the target is not in the table.
func (t *table) Encode(ticket *Ticket) (string, error) {
	if m := t.maps.Load(); m != nil {
		if value, ok := m.toValue[ticket.Target]; ok {
			return value, nil
		}
	}
	return "", ErrUnknownTarget
}

// Decode implements [Codec]. It returns [ErrUnknownTarget] for a value that is not in the
// table.
func (t *table) Decode(value string) (Ticket, error) {
	if m := t.maps.Load(); m != nil && len(m.toID) > 0 && len(value) <= MaxSize {
		e, ok := m.toID[maphash.String(m.seed, value)]
		if ok && hmac.Equal([]byte(e.value), []byte(value)) {
			return Ticket{Target: e.id}, nil
		}
	}
	return Ticket{}, ErrUnknownTarget
}
