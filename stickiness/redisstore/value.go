package redisstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

const (
	// version begins all values, and follows the Prefix in all keys.
	version = "1:"
	// maxTarget is the longest ID of a target, in octets.
	maxTarget = 4096
)

// errValue reports that the value of a session's key is not a session.
var errValue = errors.New("redisstore: the value is not a session of this version")

// key returns the key of a session in Redis.
func (s *Store) key(key string) string { return s.prefix + version + key }

func encode(target string) (value string, err error) {
	if len(target) > maxTarget {
		return "", fmt.Errorf("redisstore: the target's ID has %d octets, want at most %d", len(target), maxTarget)
	}
	return version + target, nil
}

func decode(value string) (target string, err error) {
	target, ok := strings.CutPrefix(value, version)
	if !ok || len(target) > maxTarget {
		return "", errValue
	}
	return target, nil
}

// value returns the target that a reply names. ok is false if there is no value.
func (s *Store) value(r rueidis.RedisResult) (target string, ok bool, err error) {
	text, err := r.ToString()
	switch {
	case rueidis.IsRedisNil(err):
		return "", false, nil
	case rueidis.IsParseErr(err), err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE"):
		return "", false, errValue
	case err != nil:
		return "", false, err
	}
	target, err = decode(text)
	return target, err == nil, err
}
