import CoreMetrics
import Testing

@testable import Control

@Suite struct MetricsTests {
    @Test func areWrittenInPrometheusText() {
        let metrics = PrometheusMetrics()
        metrics.makeCounter(label: "commits_total", dimensions: [("actor", "api")]).increment(by: 2)
        metrics.makeCounter(label: "commits_total", dimensions: [("actor", "a\"\\\n")]).increment(by: 1)
        metrics.makeCounter(label: "commits_total", dimensions: [("actor", "api")]).increment(by: 3)
        metrics.makeMeter(label: "mounts", dimensions: []).set(Int64(4))
        metrics.makeMeter(label: "mounts", dimensions: []).decrement(by: 1)
        let timer = metrics.makeTimer(label: "request_seconds", dimensions: [("op", "read")])
        timer.recordNanoseconds(250_000_000)
        timer.recordNanoseconds(500_000_000)
        var text = PrometheusText()
        text.add("stores", .gauge, [([], 7)])
        metrics.write(to: &text)
        #expect(
            text.text == """
                # TYPE stores gauge
                stores 7
                # TYPE commits_total counter
                commits_total{actor="a\\"\\\\\\n"} 1
                commits_total{actor="api"} 5
                # TYPE mounts gauge
                mounts 3
                # TYPE request_seconds summary
                request_seconds_sum{op="read"} 0.75
                request_seconds_count{op="read"} 2

                """)
    }
}
