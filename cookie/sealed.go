package cookie

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A sealed value is, in base64 without padding:
//
//	version (1) | key ID (4) | nonce (12) | encrypted ticket | tag (16)
//
// The version and the key ID are the associated data of the AES-256-GCM seal.
const (
	sealedVersion = 1
	keySize       = 32
	keyIDSize     = 4
	scopeSize     = 8
	sealedHeader  = 1 + keyIDSize
	sealOverhead  = 12 + 16 // nonce and tag

	// reissueAfter is the age from which a value under an old key is replaced. In the middle of a
	// rotation, instances may have their keys in different orders. Without this delay, each
	// instance would replace the other's value with every response.
	reissueAfter = 10 * time.Minute
)

// encoding uses the URL alphabet. Strict rejects unused bits after the last octet. It still skips
// line breaks, which Decode refuses itself.
var encoding = base64.RawURLEncoding.Strict()

// Sealed is the codec that most programs should use. It encrypts and authenticates the whole ticket
// with AES-256-GCM, so that a client can neither read nor make a value. Each value has exactly one
// valid spelling. Create one with [NewSealed]. The zero value has no scope and no keys: it encodes
// and decodes nothing until [Sealed.Store] gives it keys.
//
// A Sealed is safe for concurrent use and must not be copied.
type Sealed struct {
	scope string // empty, or scopeSize octets of its hash
	keys  atomic.Pointer[[]sealKey]
}

type sealKey struct {
	header [sealedHeader]byte // version and key ID
	aead   cipher.AEAD        // puts a random nonce in front of the ciphertext
}

// NewKey returns a random key for [NewSealed].
func NewKey() []byte {
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	return key
}

// SealedOptions configure a [Sealed]. The zero value works.
type SealedOptions struct {
	// Scope is the area in which values are valid, such as a pool's name. A value of another scope
	// cannot be opened. Empty means no scope.
	Scope string

	// Keys are the keys of the ring, each of 32 random octets. The first one seals; all of them
	// open. Decode sets [Ticket.OldKey] if the value was not sealed under the first key and is more
	// than ten minutes old. The age counts from Seen or, if Seen is not known, from Issued.
	//
	// Without keys, NewSealed makes a random one. Then no other instance can open the values, and a
	// restart loses all sessions. Set Keys wherever that matters.
	Keys [][]byte
}

// NewSealed returns a codec with these options. It returns an error for a key of another length and
// for a key that occurs twice. It does not keep the slices. [Sealed.Store] replaces the ring.
//
// A key must not seal more than 2^32 values, counted over all instances that share it, because the
// random nonces of AES-GCM must not repeat (NIST SP 800-38D, section 8.3). At a thousand new
// sessions a second, a key reaches this limit after 49 days.
func NewSealed(o SealedOptions) (*Sealed, error) {
	if len(o.Keys) == 0 {
		o.Keys = [][]byte{NewKey()}
	}
	s := &Sealed{}
	if o.Scope != "" {
		h := sha256.Sum256([]byte("stickylb cookie scope\x00" + o.Scope))
		s.scope = string(h[:scopeSize])
	}
	if err := s.Store(o.Keys...); err != nil {
		return nil, err
	}
	return s, nil
}

// Store replaces the ring of keys while the codec is in use. A concurrent call of Encode or Decode
// uses either the old ring or the new one.
//
// Store returns an error for an empty ring and for the keys that [NewSealed] refuses. The ring then
// stays as it was. Store does not keep the slices.
//
// # Rotation
//
// To replace an old key by a new one without losing a session, call Store on every instance three
// times. Wait after each step until all instances have done it:
//
//	Store(old, new) // every instance can open what any of them will seal
//	Store(new, old) // the new key seals
//	Store(new)      // once the last cookie under the old key has expired or was replaced
//
// After the second step, a value under the old key is replaced when its client comes back, if it
// was written more than ten minutes ago. So while the instances disagree about the first key, a
// client's cookie is replaced at most every ten minutes.
func (s *Sealed) Store(keys ...[]byte) error {
	if len(keys) == 0 {
		return errNoKeys
	}
	ring := make([]sealKey, 0, len(keys))
	for i, key := range keys {
		k, err := newSealKey(key)
		if err != nil {
			return fmt.Errorf("cookie: key %d: %w", i, err)
		}
		if j := slices.IndexFunc(ring, func(o sealKey) bool { return o.header == k.header }); j >= 0 {
			return fmt.Errorf("cookie: keys %d and %d are the same or have the same ID", j, i)
		}
		ring = append(ring, k)
	}
	s.keys.Store(&ring)
	return nil
}

// ring returns the keys. The zero value has none.
func (s *Sealed) ring() []sealKey {
	if keys := s.keys.Load(); keys != nil {
		return *keys
	}
	return nil
}

func newSealKey(key []byte) (sealKey, error) {
	if len(key) != keySize {
		return sealKey{}, fmt.Errorf("%d octets, want %d", len(key), keySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealKey{}, err
	}
	k := sealKey{aead: aead}
	k.header[0] = sealedVersion
	id := sha256.Sum256(append([]byte("stickylb cookie key\x00"), key...))
	copy(k.header[1:], id[:])
	return k, nil
}

var (
	errNoKeys   = errors.New("cookie: no keys")
	errNoTarget = errors.New("cookie: ticket without a target")
)

// Encode seals the ticket with the first key. It returns [ErrTooLong] if the value would exceed
// [MaxSize] octets. Fewer carried attributes make it shorter.
func (s *Sealed) Encode(t *Ticket) (string, error) {
	if t.Target == "" {
		return "", errNoTarget
	}
	plain := s.appendTicket(make([]byte, 0, 64), t)
	size := sealedHeader + len(plain) + sealOverhead
	if encoding.EncodedLen(size) > MaxSize {
		return "", ErrTooLong
	}
	keys := s.ring()
	if len(keys) == 0 {
		return "", errNoKeys
	}
	k := &keys[0]
	raw := append(make([]byte, 0, size), k.header[:]...)
	return encoding.EncodeToString(k.aead.Seal(raw, nil, plain, k.header[:])), nil
}

// opened has buffers in which Decode opens values. No ticket keeps a part of one.
var opened = sync.Pool{New: func() any { return new([MaxSize]byte) }}

// Decode opens a value that Encode made with one of the keys. Its errors are [ErrMalformed]
// (another format or version), [ErrUnknownKey], [ErrForged] and [ErrScope].
func (s *Sealed) Decode(value string) (Ticket, error) {
	if len(value) > MaxSize || strings.IndexByte(value, '\r') >= 0 || strings.IndexByte(value, '\n') >= 0 {
		return Ticket{}, ErrMalformed
	}
	memory := opened.Get().(*[MaxSize]byte)
	defer opened.Put(memory)
	raw, err := encoding.AppendDecode(memory[:0], []byte(value))
	if err != nil || len(raw) < sealedHeader+sealOverhead || raw[0] != sealedVersion {
		return Ticket{}, ErrMalformed
	}
	header, box := raw[:sealedHeader], raw[sealedHeader:]
	keys := s.ring()
	for i := range keys {
		k := &keys[i]
		if !bytes.Equal(header, k.header[:]) {
			continue
		}
		plain, err := k.aead.Open(box[:0], nil, box, header)
		if err != nil {
			return Ticket{}, ErrForged
		}
		t, err := s.parseTicket(plain)
		t.OldKey = err == nil && i > 0 && isDue(&t)
		return t, err
	}
	return Ticket{}, ErrUnknownKey
}

// isDue reports whether a value under an old key is old enough to be replaced.
func isDue(t *Ticket) bool {
	written := t.Seen
	if written.IsZero() {
		written = t.Issued
	}
	return written.IsZero() || time.Since(written) >= reissueAfter
}
