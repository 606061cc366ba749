package cookie

import (
	"crypto"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// InsecureNginxIndex returns the table of "hash=index": the value of a target is its index in the
// upstream block, counted from 0. It is insecure because values can be guessed. When the order of
// the servers changes, a value names another target.
func InsecureNginxIndex(ids ...string) map[string]string {
	idToValue := make(map[string]string, len(ids))
	for i, id := range ids {
		idToValue[id] = strconv.Itoa(i)
	}
	return idToValue
}

// InsecureNginxMD5 returns the value of "hash=md5" and of nginx's own "sticky cookie". It is
// insecure because it uses no key: a client can try all likely addresses and names. Since MD5
// protects nothing here, the function works under GODEBUG=fips140=only, too.
func InsecureNginxMD5(input string) string {
	var sum [md5.Size]byte
	fips140.WithoutEnforcement(func() { sum = md5.Sum([]byte(input)) })
	return hex.EncodeToString(sum[:])
}

// InsecureNginxSHA1 returns the value of "hash=sha1". It is as insecure as [InsecureNginxMD5].
func InsecureNginxSHA1(input string) string {
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(input)) })
	return hex.EncodeToString(sum[:])
}

// NginxSockaddr returns the input of nginx-sticky-module's digests: the socket address of a server
// in Linux's layout on little-endian machines such as amd64 and arm64. It ignores zones, and
// returns the empty string for the zero AddrPort.
func NginxSockaddr(addr netip.AddrPort) string {
	const inet, inet6 = 2, 10 // AF_INET, AF_INET6
	ip := addr.Addr()
	var b []byte
	switch {
	case ip.Is4():
		b = binary.LittleEndian.AppendUint16(b, inet)
		b = binary.BigEndian.AppendUint16(b, addr.Port())
		b = append(b, ip.AsSlice()...)
		b = append(b, make([]byte, 8)...) // sin_zero
	case ip.Is6():
		b = binary.LittleEndian.AppendUint16(b, inet6)
		b = binary.BigEndian.AppendUint16(b, addr.Port())
		b = append(b, make([]byte, 4)...) // sin6_flowinfo
		b = append(b, ip.AsSlice()...)
		b = append(b, make([]byte, 4)...) // sin6_scope_id
	}
	return string(b)
}

// NginxHMAC is the [Codec] of nginx's "hmac=md5 hmac_key=K" and "hmac=sha1". A client cannot
// compute the value of a target that it was not given. It can, however, use its value for ever and
// give it to others. [Sealed] can prevent both.
//
// NginxHMAC is safe for concurrent use.
type NginxHMAC struct {
	table
	hash crypto.Hash
	key  []byte
}

// NginxHMACOptions configure an [NginxHMAC]. Both fields are required.
type NginxHMACOptions struct {
	Hash crypto.Hash // [crypto.MD5] or [crypto.SHA1], as in hmac=md5 and hmac=sha1
	Key  string      // as in hmac_key=K
}

// NewNginxHMAC returns a codec with these options and an empty table. It returns an error for
// another hash and for an empty key. It always returns an error under GODEBUG=fips140=only: the
// values of nginx's hmac cannot be read in that mode, so sessions that have such values start
// again.
func NewNginxHMAC(o NginxHMACOptions) (*NginxHMAC, error) {
	if o.Hash != crypto.MD5 && o.Hash != crypto.SHA1 {
		return nil, fmt.Errorf("cookie: hash %v, want crypto.MD5 or crypto.SHA1", o.Hash)
	}
	if o.Key == "" {
		return nil, errors.New("cookie: empty Key")
	}
	if fips140.Enforced() {
		return nil, fmt.Errorf("cookie: hash %v is not available in FIPS 140-only mode", o.Hash)
	}
	return &NginxHMAC{hash: o.Hash, key: []byte(o.Key)}, nil
}

// Store replaces the table. idToInput maps each target to the input of its digest: the text of its
// server directive, or the result of [NginxSockaddr]. [InsecureTable.Store] says when to call it
// and what it refuses.
func (c *NginxHMAC) Store(idToInput map[string]string) error {
	idToValue := make(map[string]string, len(idToInput))
	for id, input := range idToInput {
		if input == "" {
			return fmt.Errorf("cookie: input of target %q is empty", id)
		}
		mac := hmac.New(c.hash.New, c.key)
		mac.Write([]byte(input))
		idToValue[id] = hex.EncodeToString(mac.Sum(nil))
	}
	return c.table.Store(idToValue)
}
