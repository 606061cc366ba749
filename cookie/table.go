package cookie

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"sync/atomic"
)

// An InsecureTable is the [Codec] of values that stand for a target and for nothing else,
// as the sticky modules of nginx, HAProxy's cookies and the routes of Java application
// servers have them. The zero value is an empty table.
//
// It is insecure because such values are no secret: a client can read or guess those of
// other targets, choose its target with them, learn the address behind a digest of one,
// and go on using a value for ever. Scopes, issue times and carried attributes do not
// survive. Use it to take sessions over from another balancer, or to share them with one,
// and [Sealed] otherwise.
//
// It is safe for concurrent use. Encode and Decode are one look-up each and allocate
// nothing.
type InsecureTable struct{ table }

// A table maps target IDs to wire values. The pointer is swapped as a whole, so that
// requests never see half of an update.
type table struct {
	maps atomic.Pointer[tableMaps]
}

// tableMaps never change. Values are found by a hash with a seed that nobody knows and then
// compared in constant time, since some are made with a key and must not be guessed octet by
// octet from how long that takes.
type tableMaps struct {
	toValue map[string]string // by ID
	seed    maphash.Seed
	toID    map[uint64]tableEntry // by the hash of the value
}

type tableEntry struct{ value, id string }

// index fills toID, under another seed in case of a collision.
func (m *tableMaps) index() {
	for len(m.toID) < len(m.toValue) {
		m.seed = maphash.MakeSeed()
		m.toID = make(map[uint64]tableEntry, len(m.toValue))
		for id, value := range m.toValue {
			m.toID[maphash.String(m.seed, value)] = tableEntry{value, id}
		}
	}
}

// Store replaces the table by idToValue, which it copies. Call it beside the update of
// the pool's targets, before it when targets are added, so that none is ever picked that
// has no value yet; a target that is gone may stay in the table.
//
// It refuses empty IDs and values, values that a cookie cannot have or that stand in quotes,
// which clients add and remove, and one value for several targets. Then the table stays as it
// was.
func (t *table) Store(idToValue map[string]string) error {
	m := &tableMaps{toValue: maps.Clone(idToValue)}
	taken := make(map[string]string, len(idToValue))
	for id, value := range m.toValue {
		if id == "" {
			return errors.New("cookie: table has an empty target ID")
		}
		if value == "" || len(value) > MaxSize || !isValue(value) || trim(value) != value || Unquote(value) != value {
			return fmt.Errorf("cookie: table has a value for target %q that no cookie can have", id)
		}
		if other, ok := taken[value]; ok {
			return fmt.Errorf("cookie: table has the same value for targets %q and %q", min(id, other), max(id, other))
		}
		taken[value] = id
	}
	m.index()
	t.maps.Store(m)
	return nil
}

// Encode implements [Codec]. It returns [ErrUnknownTarget] if the table has no value.
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
