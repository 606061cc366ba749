//go:build !unix

package main

// syncDirectory does nothing: other systems cannot sync a directory.
func syncDirectory(string) error { return nil }
