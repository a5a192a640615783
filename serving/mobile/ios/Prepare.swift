// A picture as the network saw it when it was evaluated: its centre, scaled. Plain arithmetic.

/// Holds `prepare`, as view controllers have another function of that name.
public enum XKD {
    /// Returns the input of a .tflite file: height x width x (red, green, blue), 0...255.
    ///
    /// It goes row by row. The picture is scaled until it covers the network's size, divided by the
    /// crop ratio; then the centre is cut out. `prepare` of classify.py gives the same numbers.
    ///
    /// - Parameters:
    ///   - rgba: the picture's pixels, four bytes each, row by row; upright, and opaque.
    ///   - across: the picture's width.
    ///   - down: its height.
    ///   - width: of the network's input.
    ///   - height: the same.
    ///   - cropRatio: of the file (crop_ratio.txt, or crop_ratio of the manifest); 1 where it has
    ///     none.
    public static func prepare(
        rgba: [UInt8], across: Int, down: Int, width: Int, height: Int, cropRatio: Double = 1
    ) -> [Float] {
        let least = [even(Double(width) / cropRatio), even(Double(height) / cropRatio)]
        let factor = max(Double(least[0]) / Double(across), Double(least[1]) / Double(down))
        let columns = taps(across, factor, least[0], width)
        let rows = taps(down, factor, least[1], height)
        var scaled = [Int: [Double]]()  // the picture's rows, scaled across; used a few times each
        var result = [Float]()
        result.reserveCapacity(height * width * 3)
        for tap in rows {
            var sum = [Double](repeating: 0, count: width * 3)
            scaled = scaled.filter { $0.key >= tap.from }
            for (i, weight) in tap.weights.enumerated() {
                let place = tap.from + i
                let row = scaled[place] ?? scaledRow(rgba, across * place, columns)
                scaled[place] = row
                for x in sum.indices { sum[x] += weight * row[x] }
            }
            result += sum.map { Float(min(255, max(0, $0.rounded(.toNearestOrEven)))) }
        }
        return result
    }
}

/// For a pixel of the result along one side: the pixels that it is made of, and their weights.
private struct Tap {
    let from: Int
    let weights: [Double]
}

/// A triangle as wide as a pixel of the coarser image, so that it averages when it shrinks.
private func taps(_ length: Int, _ factor: Double, _ least: Int, _ count: Int) -> [Tap] {
    let scaled = max(even(Double(length) * factor), least)
    let scale = Double(scaled) / Double(length)
    let offset = (scaled - count) / 2
    let radius = max(1 / scale, 1)
    return (0..<count).map { i in
        let middle = (Double(i + offset) + 0.5) / scale
        let from = max(0, Int((middle - radius).rounded(.down)))
        let to = min(length, Int((middle + radius).rounded(.up)))
        let raw = (from..<to).map { max(0, 1 - abs(Double($0) + 0.5 - middle) / radius) }
        let sum = raw.reduce(0, +)
        return Tap(from: from, weights: raw.map { $0 / sum })
    }
}

private func scaledRow(_ rgba: [UInt8], _ start: Int, _ columns: [Tap]) -> [Double] {
    columns.flatMap { tap in
        (0..<3).map { channel in
            tap.weights.enumerated().reduce(0.0) { sum, each in
                sum + each.element * Double(rgba[4 * (start + tap.from + each.offset) + channel])
            }
        }
    }
}

/// The nearest whole number; of two, the even one, as in training.
private func even(_ value: Double) -> Int { Int(value.rounded(.toNearestOrEven)) }
