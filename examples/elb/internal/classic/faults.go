package classic

import (
	"fmt"
	"net/http"
)

// A Fault is an error of the API, with the code by which clients know it.
type Fault struct {
	Code    string
	Status  int
	Message string
}

// Error implements error.
func (f *Fault) Error() string { return f.Code + ": " + f.Message }

// NewFault returns a fault with the status that its code has in the service model.
func NewFault(code, format string, args ...any) *Fault {
	status := http.StatusBadRequest
	switch code {
	case InvalidConfigurationRequest:
		status = http.StatusConflict
	case "MissingAuthenticationToken", "IncompleteSignature", "InvalidClientTokenId", "SignatureDoesNotMatch":
		status = http.StatusForbidden
	case "InternalFailure":
		status = http.StatusInternalServerError
	}
	return &Fault{Code: code, Status: status, Message: fmt.Sprintf(format, args...)}
}

// The codes that several actions return.
const (
	ValidationError             = "ValidationError"
	InvalidConfigurationRequest = "InvalidConfigurationRequest"
	LoadBalancerNotFound        = "LoadBalancerNotFound"
	CertificateNotFound         = "CertificateNotFound"
	PolicyNotFound              = "PolicyNotFound"
	InvalidInstance             = "InvalidInstance"
)
