package balancer

import "syscall"

// systemShortages are the errors of Windows and its sockets. errors.Is does not map these numbers
// to the names in package syscall.
var systemShortages = []shortage{
	{syscall.Errno(10024), fileDescriptors}, // WSAEMFILE
	{syscall.Errno(4), fileDescriptors},     // ERROR_TOO_MANY_OPEN_FILES
	{syscall.Errno(10049), localPorts},      // WSAEADDRNOTAVAIL
	{syscall.Errno(10055), memory},          // WSAENOBUFS
	{syscall.Errno(8), memory},              // ERROR_NOT_ENOUGH_MEMORY
}
