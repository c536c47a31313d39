package iso7816

// Withdraw takes back a Start whose first block was never sent: a PIN pad whose
// user cancelled. Card and machine are as before.
func (t *T1) Withdraw() { t.state = t1Idle }
