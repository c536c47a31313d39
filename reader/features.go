package reader

// Features are the optional interfaces of a slot. Whoever serves a slot asks for them
// once and keeps the answer; nil: the slot does not have it.
type Features struct {
	Notifier         Notifier
	ParamSetter      ParamSetter
	RateLimiter      RateLimiter
	ProtocolSelector ProtocolSelector
	ProtocolLister   ProtocolLister
	Ejector          Ejector
	Escaper          Escaper
	Display          Display
	Keypad           Keypad
	PINPad           PINPad
	Describer        Describer
	Memory           Memory
	Locker           Locker
}

// FeaturesOf asks s, and what it wraps, for them.
func FeaturesOf(s Slot) Features {
	return Features{
		Notifier: find[Notifier](s), ParamSetter: find[ParamSetter](s), RateLimiter: find[RateLimiter](s),
		ProtocolSelector: find[ProtocolSelector](s), ProtocolLister: find[ProtocolLister](s),
		Ejector: find[Ejector](s), Escaper: find[Escaper](s), Display: find[Display](s),
		Keypad: find[Keypad](s), PINPad: find[PINPad](s), Describer: find[Describer](s),
		Memory: find[Memory](s), Locker: find[Locker](s),
	}
}

// As finds T in s or in a slot that s wraps. A wrapper has Unwrap() Slot; its own methods come
// before those of the slot below it.
func As[T any](s Slot) (t T, ok bool) {
	for s != nil {
		if t, ok = s.(T); ok {
			return t, true
		}
		w, wraps := s.(interface{ Unwrap() Slot })
		if !wraps {
			break
		}
		s = w.Unwrap()
	}
	return t, false
}

// find is As for callers that take nil as "not found".
func find[T any](s Slot) T {
	t, _ := As[T](s)
	return t
}
