package serial

// ForgetInUse makes this process forget which terminals it has open.
func ForgetInUse() { inUse.Clear() }
