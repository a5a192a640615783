/** A picture as the network saw it when it was evaluated: its centre, scaled. Plain arithmetic. */
package xkd

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/**
 * Returns the input of a .tflite file: height x width x (red, green, blue), 0..255, row by row.
 *
 * The picture is laid on white and scaled until it covers the network's size, divided by the crop
 * ratio; then the centre is cut out. `prepare` of classify.py gives the same numbers.
 *
 * @param across the picture's width, @param down its height.
 * @param width of the network's input, @param height the same.
 * @param cropRatio of the file (crop_ratio.txt, or crop_ratio of the manifest); 1 where it has none.
 * @param read writes row y of the upright picture into `row`, as Bitmap.getPixels does. Rows are
 *   read from the top, none twice: all of a large photo may be more than an app's heap holds.
 */
fun prepare(
    across: Int, down: Int, width: Int, height: Int, cropRatio: Double = 1.0,
    read: (y: Int, row: IntArray) -> Unit
): FloatArray {
    val least = intArrayOf(even(width / cropRatio), even(height / cropRatio))
    val factor = max(least[0].toDouble() / across, least[1].toDouble() / down)
    val columns = taps(across, factor, least[0], width)
    val rows = taps(down, factor, least[1], height)
    val argb = IntArray(across) // a row of the picture
    val scaled = HashMap<Int, DoubleArray>() // rows of the picture, scaled across; each is used a few times
    val result = FloatArray(height * width * 3)
    for (y in 0 until height) {
        val sum = DoubleArray(width * 3)
        scaled.keys.removeAll { it < rows[y].from }
        for ((i, weight) in rows[y].weights.withIndex()) {
            val place = rows[y].from + i
            val row = scaled.getOrPut(place) {
                read(place, argb)
                scaledRow(argb, columns)
            }
            for (x in sum.indices) sum[x] += weight * row[x]
        }
        for (x in sum.indices) result[y * width * 3 + x] = min(255.0, max(0.0, round(sum[x]))).toFloat()
    }
    return result
}

/** For a pixel of the result along one side: the pixels that it is made of, and their weights. */
private class Tap(val from: Int, val weights: DoubleArray)

/** A triangle as wide as a pixel of the coarser image, so that it averages when it shrinks. */
private fun taps(length: Int, factor: Double, least: Int, count: Int): List<Tap> {
    val scaled = max(even(length * factor), least)
    val scale = scaled.toDouble() / length
    val offset = (scaled - count) / 2
    val radius = max(1 / scale, 1.0)
    return List(count) { i ->
        val middle = (i + 0.5 + offset) / scale
        val from = max(0, floor(middle - radius).toInt())
        val to = min(length, ceil(middle + radius).toInt())
        val raw = DoubleArray(to - from) { j -> max(0.0, 1 - abs(from + j + 0.5 - middle) / radius) }
        val sum = raw.sum()
        Tap(from, DoubleArray(raw.size) { raw[it] / sum })
    }
}

private fun scaledRow(argb: IntArray, columns: List<Tap>): DoubleArray {
    val row = DoubleArray(columns.size * 3)
    for ((x, tap) in columns.withIndex()) {
        for ((i, weight) in tap.weights.withIndex()) {
            val pixel = argb[tap.from + i]
            for (channel in 0 until 3) row[3 * x + channel] += weight * onWhite(pixel, channel)
        }
    }
    return row
}

/** Channel 0, 1 or 2 (red, green, blue) of 0xAARRGGBB laid on white. */
private fun onWhite(pixel: Int, channel: Int): Double {
    val alpha = pixel ushr 24
    val value = pixel shr (16 - 8 * channel) and 255
    return if (alpha == 255) value.toDouble() else round((value * alpha + 255.0 * (255 - alpha)) / 255)
}

/** The nearest whole number; of two, the even one, as in training. */
private fun even(value: Double): Int = round(value).toInt()
