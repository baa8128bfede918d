"""Bytes that `read_image` once failed on, found by benchmarks/fuzz_images.py; zlib, base85."""

FOUND = {
    "RuntimeError in AvifImagePlugin.py:_open": (
        "c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^nKdYzkElE?r7iWw<6MNl?FL1uCZ0~+8{%`C|UvlxL`E;A=T8N_h`@fjhajKV-#4Tv=|GxO5m"
        "YNddjR3<1dvCP2GIX@>KY*$uhK~Vva_RcIw&Ii&WnZ*UEQ2RK6m<@;p3NkA)K?2Mi92`K3C$Y@XxsibfBqW@ipHq~VoKpcbnU{gB0VpJ%S&$3!"
        "6VPESj7-feK&D=9N@9r+0~dz`&!R03&W;O>B;<~_w?^Lo|Nqfxy@n0*FROBtJq*0I^-lu;l-fOn"
    ),
    "RuntimeError in AvifImagePlugin.py:load": (
        "c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^nKdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_h`@fjhajKV-#4Tv=|GxO5m"
        "YNddjR3<1dvCP2GIX@>KY*$uhK~Vva_RcIw&Ii&WnZ*UEQ2RK6m<@;p3NkA)K?2Mi92`K3C$Y@XxsibfBqW@ipHq~VoKpcbnKzWJ0VpJ%S&$3!"
        "6VPESj7-feK&D=9N@9r+0~dz`&!R03&W;O>B;<~_w?^Lo|Nqfxy@n0*FROBtJq*0I^-lu;@VY)E"
    ),
}
