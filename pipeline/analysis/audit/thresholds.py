"""Every threshold of the rule for findings, in the order of its steps. `decide` has the reasons and measurements."""

# More here than elsewhere
MIN_IMAGES = 6  # images that a class needs, and that a test needs: with fewer nothing is tested
ALPHA = 0.05  # largest corrected p-value of a candidate
FAMILIES = 2  # permutation tests, windows and colors: p-values are multiplied by it (Bonferroni)
PERMUTATIONS = 199
TESTED = 90  # places that are tested at most, and as many color casts: those with the largest excess
SAME = 0.7  # intersection over union from which two boxes are one
# The model uses it
USE = 0.2  # rate of predictions lost, or of images turned
STRONG = 0.5  # lower bound of one of these rates from which a class "leans on" a place, below it "leans in part on" it
# It is a mark, not a part of the object
ALIKE = 3.5  # lower end of d' from which the content of images is alike
SURELY = 6.0  # lower end of d' that needs no comparison with other classes
OVER_OTHERS = 3.0  # times the d' that other classes reach
APART = 1.75  # lower end of d' of any mark
OTHERS = 5  # other classes with used places to compare with, at least, for a mark below `ALIKE`
PART = 3.0  # d' of the contrast of a place that may be a part of a mark; a whole mark has more
FOR_ITS_SIZE = 30.0  # lower bound of images turned, over the share of the image that the place covers
TURNED = 0.1  # lower bound of images that a mark turns
MOST = 0.5  # lower bound of images turned from which the object beneath a mark does not matter
CAST_TURNED = 0.3  # lower bound of images that a cast turns if it is not alike
